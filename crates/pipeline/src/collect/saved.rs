//! The counting's state as bytes, and back: behind the pipeline's own in a snapshot, so that both are of one moment.
//!
//! A program that knows nothing of it reads over it. Windows of an instance that runs no more, or by another profile, are
//! reported as they are.

use std::sync::Arc;

use dunlin_kit::digest::Digest;
use dunlin_model_package::profile_window::{Counted, Shape, read_window, write_window};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::windows::{Change, Collected, Window};
use super::{Collector, Sensors};
use crate::core::Core;
use crate::prediction::InstanceId;
use crate::snapshot::SnapshotError;

/// First byte: the version of the format.
const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Saved {
    instances: Vec<SavedInstance>,
    sensors: Vec<(InstanceId, [u8; 32], Sensors)>,
    /// Of instances that run no more: up to when they counted.
    floors: Vec<(InstanceId, i64)>,
}

#[derive(Serialize, Deserialize)]
struct SavedInstance {
    id: InstanceId,
    profile: [u8; 32],
    /// Bins of each summary, and whether they are names.
    shapes: Vec<(u16, bool)>,
    newest_us: i64,
    floor_us: i64,
    windows: Vec<SavedWindow>,
}

#[derive(Serialize, Deserialize)]
struct SavedWindow {
    from_us: i64,
    to_us: i64,
    n: u64,
    revision: u32,
    is_told: bool,
    summaries: Vec<u8>,
}

impl SavedWindow {
    fn of(window: &Window) -> Self {
        Self {
            from_us: window.from_us,
            to_us: window.to_us,
            n: window.n,
            revision: window.revision,
            is_told: window.change == Change::Told,
            summaries: write_window(&window.summaries),
        }
    }

    fn window(&self, shapes: &[Shape]) -> Result<Window, SnapshotError> {
        Ok(Window {
            from_us: self.from_us,
            to_us: self.to_us,
            n: self.n,
            revision: self.revision,
            change: if self.is_told { Change::Told } else { Change::Untold },
            summaries: read_window(&self.summaries, shapes.iter().copied())
                .map_err(|_| SnapshotError::Corrupt)?,
        })
    }
}

impl Core {
    /// Appends the counting's state; nothing where nothing is counted.
    pub(crate) fn save_collected(&self, bytes: &mut Vec<u8>) {
        let Some(collector) = &self.collector else { return };
        let instances = collector.instances.iter().map(|(id, collected)| SavedInstance {
            id: *id,
            profile: *collected.plan.profile.as_bytes(),
            shapes: collected.plan.shapes.iter().map(to_saved).collect(),
            newest_us: collected.newest_us,
            floor_us: collected.floor_us,
            windows: collected.windows.iter().map(SavedWindow::of).collect(),
        });
        let of_plan = |(id, sensors): (&InstanceId, &Sensors)| {
            Some((*id, *self.plan_of(*id)?.profile.as_bytes(), sensors.clone()))
        };
        let mut sensors: Vec<_> = collector.sensors.iter().filter_map(of_plan).collect();
        sensors.sort_by_key(|(id, ..)| *id);
        let floors = collector.floors.iter().map(|(id, floor_us)| (*id, *floor_us)).collect();
        let saved = Saved { instances: instances.collect(), sensors, floors };
        bytes.push(FORMAT);
        if let Ok(mut body) = postcard::to_allocvec(&saved) {
            bytes.append(&mut body);
        }
    }

    /// Takes the counting's state from what stood behind the pipeline's.
    ///
    /// *Errors*: the bytes are none that this build reads; counting begins anew.
    pub(crate) fn restore_collected(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (Some((format, body)), true) = (bytes.split_first(), self.collector.is_some()) else {
            return Ok(());
        };
        if *format != FORMAT {
            return Err(SnapshotError::TooNew(*format));
        }
        let saved: Saved = postcard::from_bytes(body).map_err(|_| SnapshotError::Corrupt)?;
        if let Some(collector) = &mut self.collector {
            collector.floors = saved.floors.into_iter().collect();
        }
        for (id, profile, sensors) in saved.sensors {
            let plan = self.plan_of(id);
            let fits = plan.is_some_and(|plan| *plan.profile.as_bytes() == profile && sensors.fits(plan));
            if let (true, Some(collector)) = (fits, &mut self.collector) {
                collector.sensors.insert(id, sensors);
            }
        }
        for instance in saved.instances {
            let plan = self
                .plan_of(instance.id)
                .and_then(|plan| (*plan.profile.as_bytes() == instance.profile).then(|| Arc::clone(plan)));
            if let Some(collector) = &mut self.collector {
                collector.restore(&instance, plan.as_ref())?;
            }
        }
        Ok(())
    }
}

impl Collector {
    fn restore(&mut self, saved: &SavedInstance, plan: Option<&Arc<Plan>>) -> Result<(), SnapshotError> {
        let shapes: Arc<[Shape]> = saved.shapes.iter().map(of_saved).collect();
        let windows = saved.windows.iter().map(|window| window.window(&shapes));
        let windows = windows.collect::<Result<Vec<Window>, SnapshotError>>()?;
        let is_in_order = windows.windows(2).all(|pair| pair[0].to_us <= pair[1].from_us);
        if !is_in_order || windows.iter().any(|window| window.from_us >= window.to_us) {
            return Err(SnapshotError::Corrupt);
        }
        let same = plan.filter(|plan| plan.shapes == shapes);
        let profile = Digest::from_bytes(saved.profile);
        let plan = same.cloned().unwrap_or_else(|| Arc::new(Plan::of_shapes(profile, shapes)));
        let mut collected = Collected::new(&plan, self.settings);
        (collected.newest_us, collected.floor_us) = (saved.newest_us, saved.floor_us);
        collected.windows = windows.into();
        if same.is_some() {
            self.instances.insert(saved.id, collected);
        } else {
            self.end(saved.id, collected);
        }
        Ok(())
    }
}

fn to_saved(shape: &Shape) -> (u16, bool) {
    (shape.bins as u16, shape.of == Counted::Names)
}

fn of_saved((bins, is_names): &(u16, bool)) -> Shape {
    Shape { bins: usize::from(*bins), of: if *is_names { Counted::Names } else { Counted::Numbers } }
}
