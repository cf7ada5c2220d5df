//! Three public sensor series in payload shapes met in the field, from the folder of public series.
//!
//! Reads CSV and makes messages; the rows are published as they stand, faults included. The oracle's rules for
//! accepting them are the daemon's, not this module's.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::failure::{Failure, Outcome};
use crate::oracle::Expected;
use crate::stream::Message;

/// Channels of the air-quality station that are published.
const AIR_CHANNELS: [&str; 8] =
    ["PT08_S1_CO", "PT08_S2_NMHC", "PT08_S3_NOx", "PT08_S4_NO2", "PT08_S5_O3", "T", "RH", "AH"];

/// A public series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// Temperature of a machine, JSON with RFC 3339 times.
    MachineTemperature,
    /// Climate of an office, Zigbee2MQTT with epoch milliseconds.
    Occupancy,
    /// A station of eight gas sensors, SenML packs.
    AirQuality,
}

impl Series {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MachineTemperature, Self::Occupancy, Self::AirQuality];

    /// Returns the name of the series, its example and its model.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MachineTemperature => "machine-temperature",
            Self::Occupancy => "occupancy",
            Self::AirQuality => "air-quality",
        }
    }

    /// Returns the series of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|series| series.name() == name)
    }

    /// Reads the series as messages, in the order of arrival.
    ///
    /// *Errors*: a file is missing or has a row that cannot be read.
    pub fn messages(self, shared: &Path) -> Outcome<Vec<Message>> {
        let data = shared.join("data");
        match self {
            Self::MachineTemperature => machine_temperature(&data),
            Self::Occupancy => occupancy(&data),
            Self::AirQuality => air_quality(&data),
        }
    }

    /// Reads what the oracle predicts of the whole series.
    ///
    /// *Errors*: as [`Expected::read`].
    pub fn expected(self, shared: &Path) -> Outcome<Expected> {
        Expected::read(&shared.join("oracle").join(format!("{}.expected.csv", self.name())))
    }

    /// Returns a stretch of `count` messages from the beginning, and what is expected of it.
    ///
    /// *Errors*: as [`Series::messages`].
    pub fn stretch(self, shared: &Path, count: usize) -> Outcome<(Vec<Message>, Expected)> {
        let mut messages = self.messages(shared)?;
        messages.truncate(count);
        let last = messages.iter().map(|message| message.event_ms).max().unwrap_or_default();
        Ok((messages, self.expected(shared)?.until(last)))
    }
}

fn machine_temperature(data: &Path) -> Outcome<Vec<Message>> {
    let text = read(data.join("nab/machine_temperature_system_failure.csv"))?;
    text.lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (time, value) = line.split_once(',').ok_or_else(|| unreadable(line))?;
            let value: f64 = value.parse().map_err(|_| unreadable(line))?;
            let payload = format!("{{\"ts\": \"{}Z\", \"value\": {value:?}}}", time.replace(' ', "T"));
            Ok(Message::timed("plant/press-7/temperature", payload, epoch_ms(time, "%Y-%m-%d %H:%M:%S")?))
        })
        .collect()
}

fn occupancy(data: &Path) -> Outcome<Vec<Message>> {
    let mut rows: Vec<(i64, [f64; 5])> = Vec::new();
    for name in ["datatraining.txt", "datatest.txt", "datatest2.txt"] {
        let text = read(data.join("occupancy").join(name))?.replace('"', "");
        for line in text.lines() {
            let cells: Vec<&str> = line.split(',').collect();
            if cells.len() != 8 || cells[0] == "date" {
                continue;
            }
            let mut values = [0.0; 5];
            for (value, cell) in values.iter_mut().zip(&cells[2..7]) {
                *value = cell.parse().map_err(|_| unreadable(line))?;
            }
            rows.push((epoch_ms(cells[1], "%Y-%m-%d %H:%M:%S")?, values));
        }
    }
    rows.sort_by_key(|(ms, _)| *ms);
    let message = |(ms, [temperature, humidity, light, co2, ratio]): (i64, [f64; 5])| {
        let payload = format!(
            "{{\"temperature\": {temperature:?}, \"humidity\": {humidity:?}, \"illuminance\": {light:?}, \
             \"co2\": {co2:?}, \"humidity_ratio\": {ratio:?}, \"last_seen\": {ms}}}"
        );
        Message::timed("zigbee2mqtt/office-1", payload, ms)
    };
    Ok(rows.into_iter().map(message).collect())
}

fn air_quality(data: &Path) -> Outcome<Vec<Message>> {
    let text = read(data.join("airquality/AirQualityUCI.csv"))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        header.iter().position(|cell| *cell == name).ok_or_else(|| Failure::new(format!("no column {name}")))
    };
    let columns = AIR_CHANNELS.iter().map(|name| column(name)).collect::<Outcome<Vec<_>>>()?;
    let rows = lines.map(|line| line.split(',').collect::<Vec<_>>()).filter(|cells| !cells[0].is_empty());
    rows.map(|cells| {
        let line = || unreadable(&cells.join(","));
        let time = format!("{} {}", cells[0], cells.get(1).ok_or_else(line)?);
        let ms = epoch_ms(&time, "%d/%m/%Y %H:%M:%S")?;
        let mut payload = format!("[{{\"bn\": \"station-1:\", \"bt\": {:?}, ", ms as f64 / 1e3);
        for (index, (name, at)) in AIR_CHANNELS.iter().zip(&columns).enumerate() {
            let value: f64 = cells.get(*at).and_then(|cell| cell.parse().ok()).ok_or_else(line)?;
            let open = if index == 0 { "" } else { ", {" };
            payload.push_str(&format!("{open}\"n\": \"{name}\", \"v\": {value:?}}}"));
        }
        payload.push(']');
        Ok(Message::timed("city/station-1/senml", payload, ms))
    })
    .collect()
}

fn read(path: PathBuf) -> Outcome<String> {
    std::fs::read_to_string(&path).map_err(Failure::of(path.display()))
}

fn epoch_ms(text: &str, format: &str) -> Outcome<i64> {
    let civil = DateTime::strptime(format, text).map_err(Failure::of(text))?;
    Ok(TimeZone::UTC.to_timestamp(civil).map_err(Failure::of(text))?.as_millisecond())
}

fn unreadable(line: &str) -> Failure {
    Failure::new(format!("unreadable row `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{shared_folder, skip};

    #[test]
    fn every_series_is_readable_and_ends_where_its_oracle_ends() {
        let Some(shared) = shared_folder() else { return skip("no folder of public series") };
        for series in Series::ALL {
            let messages = series.messages(&shared).unwrap();
            let expected = series.expected(&shared).unwrap();
            let last = messages.iter().map(|message| message.event_ms).max().unwrap();
            assert_eq!(expected.clone().until(last).len(), expected.len(), "{}", series.name());
            assert_eq!(expected.clone().until(last - 1).len(), expected.len() - 1, "{}", series.name());
            for message in messages.iter().step_by(500) {
                let payload: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
                assert!(payload.is_object() || payload.is_array());
            }
            assert_eq!(Series::by_name(series.name()), Some(series));
        }
    }
}
