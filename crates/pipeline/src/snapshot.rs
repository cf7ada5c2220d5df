//! The whole state of a core as bytes, and back.
//!
//! A snapshot names each instance with its lane's fingerprint and what its rows are made of: where another package runs
//! after a restart, its windows go on with those of the one before. Never reads readings again: the caller feeds those
//! that came after the snapshot.

use std::collections::{HashMap, HashSet};
use std::fmt;

use dunlin_model_package::Digest;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::instance::Instance;
use crate::lane::{Lane, LaneRole, Place};
use crate::prediction::InstanceId;
use crate::reading::SeriesId;
use crate::series::SeriesOrder;

/// First byte of a snapshot: the version of its format.
const FORMAT: u8 = 2;
/// The version before lanes: one package a model, which served.
const FORMAT_WITHOUT_LANES: u8 = 1;

/// What is written borrows: the state may be large, and is not to be in memory twice.
#[derive(Serialize)]
struct Written<'c> {
    series: Vec<(SeriesId, &'c SeriesOrder)>,
    lanes: Vec<SavedLane>,
    /// With the position of the lane above.
    instances: Vec<(InstanceId, u16, Place, &'c Instance)>,
}

/// A lane in which something ran.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SavedLane {
    fingerprint: [u8; 32],
    rows: [u8; 32],
    judging: [u8; 32],
    role: LaneRole,
}

#[derive(Deserialize)]
struct Snapshot {
    series: Vec<(SeriesId, SeriesOrder)>,
    lanes: Vec<SavedLane>,
    instances: Vec<(InstanceId, u16, Place, Instance)>,
}

#[derive(Deserialize)]
struct SnapshotWithoutLanes {
    series: Vec<(SeriesId, SeriesOrder)>,
    instances: Vec<(InstanceId, [u8; 32], Instance)>,
}

/// A snapshot that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotError {
    /// It was written by a newer program.
    TooNew(u8),
    /// Its bytes are no snapshot.
    Corrupt,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooNew(format) => {
                write!(f, "the saved windows have format {format}, this build reads up to {FORMAT}")
            }
            Self::Corrupt => f.write_str("the saved windows are corrupt"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl Core {
    /// Returns the state of all series and instances. To be taken when no window waits for its outputs, and stored
    /// with the instances of [`Core::announce`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut series: Vec<_> = self.series.iter().map(|(id, series)| (id, &series.order)).collect();
        series.sort_by_key(|(id, _)| *id);
        let mut positions = vec![0; self.lanes.len()];
        let mut lanes = Vec::new();
        for (lane, position) in self.lanes.iter().zip(&mut positions) {
            let Some(Lane { role, model }) = lane else { continue };
            *position = lanes.len() as u16;
            lanes.push(SavedLane {
                fingerprint: *model.fingerprint.as_bytes(),
                rows: *model.rows.as_bytes(),
                judging: *model.judging.as_bytes(),
                role: *role,
            });
        }
        let mut instances: Vec<_> = self
            .instances
            .iter()
            .map(|(id, running)| (*id, positions[running.lane], running.place, &running.state))
            .collect();
        instances.sort_by_key(|(id, ..)| *id);
        let mut bytes = postcard::to_extend(&Written { series, lanes, instances }, vec![FORMAT])
            .expect("a snapshot has only sized and counted parts");
        self.save_collected(&mut bytes);
        bytes
    }

    /// Takes the state from a snapshot, for the series and instances that were registered. An instance that is not in
    /// it goes on with the windows of another package's on the same place, where both take the same rows.
    ///
    /// *Errors*: the bytes are no snapshot this build reads; the core is as before. Where the counting's state alone is
    /// none, the rest is restored and counting begins anew.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (format, body) = bytes.split_first().ok_or(SnapshotError::Corrupt)?;
        match *format {
            FORMAT => {
                let (snapshot, collected): (Snapshot, _) =
                    postcard::take_from_bytes(body).map_err(|_| SnapshotError::Corrupt)?;
                let positions = snapshot.instances.iter().map(|(_, position, ..)| usize::from(*position));
                if positions.max().is_some_and(|position| position >= snapshot.lanes.len()) {
                    return Err(SnapshotError::Corrupt);
                }
                self.restore_series(snapshot.series);
                if self.has_lanes_of(&snapshot.lanes) {
                    for (id, position, _, state) in snapshot.instances {
                        self.restore_own(id, snapshot.lanes[usize::from(position)].fingerprint, state);
                    }
                } else {
                    self.restore_into_others(&snapshot.lanes, &snapshot.instances);
                }
                self.restore_collected(collected)?;
            }
            FORMAT_WITHOUT_LANES => {
                let snapshot: SnapshotWithoutLanes =
                    postcard::from_bytes(body).map_err(|_| SnapshotError::Corrupt)?;
                self.restore_series(snapshot.series);
                for (id, fingerprint, state) in snapshot.instances {
                    self.restore_own(id, fingerprint, state);
                }
            }
            other => return Err(SnapshotError::TooNew(other)),
        }
        Ok(())
    }

    fn restore_series(&mut self, saved: Vec<(SeriesId, SeriesOrder)>) {
        for (id, order) in saved {
            if let Some(series) = self.series.running_mut(id) {
                series.order = order;
            }
        }
    }

    /// Tells whether every lane was saved in the role it has.
    fn has_lanes_of(&self, saved: &[SavedLane]) -> bool {
        self.lanes.iter().flatten().all(|Lane { role, model }| {
            let fingerprint = model.fingerprint.as_bytes();
            saved.iter().any(|lane| lane.fingerprint == *fingerprint && lane.role == *role)
        })
    }

    fn restore_into_others(&mut self, lanes: &[SavedLane], saved: &[(InstanceId, u16, Place, Instance)]) {
        let mut restored = HashSet::new();
        let mut by_place: HashMap<Place, Vec<(InstanceId, &SavedLane, &Instance)>> = HashMap::new();
        for (id, position, place, state) in saved {
            let lane = &lanes[usize::from(*position)];
            if self.restore_own(*id, lane.fingerprint, state.clone()) {
                restored.insert(*id);
            }
            by_place.entry(*place).or_default().push((*id, lane, state));
        }
        for (id, running) in &mut self.instances {
            let Some(Lane { role, model }) = &self.lanes[running.lane] else { continue };
            let Some(kin) = by_place.get(&running.place) else { continue };
            let served = kin.iter().find(|(_, lane, _)| lane.role == LaneRole::Serving);
            if !restored.contains(id) {
                let same_rows = |(_, lane, _): &&(_, &SavedLane, _)| lane.rows == *model.rows.as_bytes();
                let found = served.filter(same_rows).or_else(|| kin.iter().find(same_rows));
                if let Some((_, lane, state)) = found {
                    running.state = (*state).clone().adapt(model, Digest::from_bytes(lane.judging));
                }
            }
            if let Some((former, lane, state)) = served
                && former != id
                && *role == LaneRole::Serving
            {
                running.state.succeed(model, &state.post, Digest::from_bytes(lane.judging));
            }
        }
    }

    /// Gives an instance its own state back, where its lane is the same; tells whether it is.
    fn restore_own(&mut self, id: InstanceId, fingerprint: [u8; 32], state: Instance) -> bool {
        let Some(running) = self.instances.get_mut(&id) else { return false };
        let model = self.lanes[running.lane].as_ref().map(|lane| &lane.model);
        let same = model.is_some_and(|model| model.fingerprint == Digest::from_bytes(fingerprint));
        if same {
            running.state = state;
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled_model::ModelBinding;
    use crate::core::Turn;
    use crate::message::{ClockState, Message};

    fn core() -> Core {
        let source = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"number\"\nfields.a = {}";
        let manifest = serde_json::json!({
            "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 3 },
            "inputs": [{ "name": "x", "shape": ["batch", 3, 1], "features": [{ "name": "a" }] }],
            "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }], "blobs": {}
        });
        let binding = ModelBinding {
            spec: toml::from_str("name = \"m\"\npackage = \"p\"\nkey = [\"id\"]").unwrap(),
            manifest: serde_json::from_value(manifest).unwrap(),
            package: Digest::of(b"package"),
            profile: None,
        };
        Core::serving(&[toml::from_str(source).unwrap()], vec![binding]).unwrap()
    }

    #[test]
    fn a_snapshot_of_the_format_without_lanes_is_read() {
        let (mut first, mut turn) = (core(), Turn::default());
        for at in [1, 2] {
            let message = Message {
                broker: None,
                topic: "s/x",
                payload: b"1.5",
                retained: false,
                arrival_us: 1_700_000_000_000_000 + at * 1_000_000,
                clock: ClockState::Set,
            };
            first.take(&message, &mut turn);
        }
        let series: Vec<_> = first.series.iter().map(|(id, series)| (id, &series.order)).collect();
        let instances: Vec<_> = first
            .instances
            .iter()
            .map(|(id, running)| {
                let lane = first.lanes[running.lane].as_ref().unwrap();
                (*id, *lane.model.fingerprint.as_bytes(), &running.state)
            })
            .collect();
        let old = postcard::to_extend(&(series, instances), vec![FORMAT_WITHOUT_LANES]).unwrap();
        let mut second = core();
        second.register(turn.new_series.clone(), turn.new_instances.clone());
        second.restore(&old).unwrap();
        assert_eq!(second.snapshot(), first.snapshot());
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        let mut snapshot = core().snapshot();
        assert_eq!(core().restore(&snapshot[..1]), Err(SnapshotError::Corrupt));
        assert_eq!(core().restore(&[]), Err(SnapshotError::Corrupt));
        snapshot[0] = 9;
        assert_eq!(core().restore(&snapshot), Err(SnapshotError::TooNew(9)));
    }
}
