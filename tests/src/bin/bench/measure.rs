//! The order of measurements, and which figure each gives.
//!
//! Each system has the machine for itself while it is measured. A measurement that fails leaves its cells empty and
//! a remark; the others go on.

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Failure, Outcome};

use crate::Lengths;
use crate::session::{Session, SessionPlan};
use crate::systems::{COLUMNS, Equipment, Kind, ROWS};
use crate::table::{Row, Table, Target};

/// Sensors of all figures but the growth.
const SENSORS: usize = 100;
/// In-flight window that does not limit.
const WIDE: u16 = 1_000;
/// mosquitto's default in-flight window.
const NARROW: u16 = 20;
/// Where a search for the highest rate begins.
const FIRST_RATE: f64 = 5_000.0;
const MEGA: f64 = 1_000_000.0;
/// Starts of which the median is taken.
const STARTS: usize = 5;

/// Figures of one system in the main session.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    p50_500: Option<f64>,
    p99_500: Option<f64>,
    p50_5000: Option<f64>,
    p99_5000: Option<f64>,
    resident: Option<f64>,
    sustained: Option<f64>,
    sustained_qos1: Option<f64>,
}

/// Measures everything that can be measured.
pub(crate) fn all(equipment: &Equipment, lengths: Lengths) -> Table {
    let mut table = Table::default();
    let mut figures = [Figures::default(); 3];
    for (slot, kind) in figures.iter_mut().zip([Kind::Dunlin, Kind::Python, Kind::Node]) {
        if equipment.has(kind) {
            note(&format!("measuring {kind:?} …"));
            let main = main_session(equipment, kind, lengths, slot);
            remark(&mut table, &format!("{kind:?}"), main);
            let qos1 = sustained(equipment, plan(kind, Qos::AtLeastOnce, WIDE, SENSORS), lengths);
            slot.sustained_qos1 = remark(&mut table, &format!("{kind:?} at QoS 1"), qos1);
        }
    }
    compared_rows(&mut table, &figures);
    note("measuring Dunlin alone …");
    let narrow = sustained(equipment, plan(Kind::Dunlin, Qos::AtLeastOnce, NARROW, SENSORS), lengths);
    let narrow = remark(&mut table, "QoS 1 with the default window", narrow);
    own_row(&mut table, "sustained at QoS 1, in-flight window 20", "readings/s", narrow, Target::None);
    let thread = thread_resident(equipment, lengths);
    let thread = remark(&mut table, "isolation = thread", thread);
    own_row(&mut table, "resident memory, isolation = thread", "MB", thread, Target::AtMost(20.0));
    let start = start_ms(equipment);
    let start = remark(&mut table, "start", start);
    own_row(&mut table, "start to ready with one model", "ms", start, Target::AtMost(300.0));
    let bytes = slow_rates(equipment, lengths, &mut table);
    remark(&mut table, "bytes a prediction", bytes);
    if lengths.many_sensors > 0 {
        note("measuring growth …");
        let growth = growth(equipment, lengths, &figures[0], &mut table);
        remark(&mut table, "growth", growth);
    }
    table
}

const fn plan(kind: Kind, qos: Qos, in_flight_max: u16, sensors: usize) -> SessionPlan {
    SessionPlan { kind, qos, in_flight_max, sensors }
}

/// Keeps a result, or says below the table why there is none.
fn remark<T>(table: &mut Table, what: &str, outcome: Outcome<T>) -> Option<T> {
    outcome
        .map_err(|failure| {
            note(&format!("{what}: {failure}"));
            let first = failure.to_string().lines().next().unwrap_or_default().to_owned();
            table.remark(format!("{what} could not be measured: {first}"));
        })
        .ok()
}

/// Latencies, then memory, then the highest rate, at QoS 0.
fn main_session(equipment: &Equipment, kind: Kind, lengths: Lengths, into: &mut Figures) -> Outcome<()> {
    let mut session = Session::start(equipment, plan(kind, Qos::AtMostOnce, WIDE, SENSORS))?;
    let slow = session.stretch(500.0, lengths.steady)?;
    if slow.sustained {
        (into.p50_500, into.p99_500) = (millis(slow.p50_us), millis(slow.p99_us));
    }
    let fast = session.stretch(5_000.0, lengths.steady)?;
    if fast.sustained {
        (into.p50_5000, into.p99_5000) = (millis(fast.p50_us), millis(fast.p99_us));
    }
    into.resident = Some(session.system.resident_bytes()? as f64 / MEGA);
    into.sustained = Some(session.sustained(FIRST_RATE, lengths.ramp)?);
    Ok(())
}

fn millis(micros: u32) -> Option<f64> {
    Some(f64::from(micros) / 1e3)
}

fn sustained(equipment: &Equipment, plan: SessionPlan, lengths: Lengths) -> Outcome<f64> {
    Session::start(equipment, plan)?.sustained(FIRST_RATE, lengths.ramp)
}

fn compared_rows(table: &mut Table, figures: &[Figures; 3]) {
    type Pick = fn(&Figures) -> Option<f64>;
    let rows: [(&str, &'static str, Target, Pick); 7] = [
        ("sustained at QoS 0", "readings/s", Target::TimesPeers(3.0, Some(2.0)), |f| f.sustained),
        (
            "sustained at QoS 1 (Dunlin acknowledges after the commit), in-flight window 1,000",
            "readings/s",
            Target::TimesPythonAndAtLeast(1.5, 10_000.0),
            |f| f.sustained_qos1,
        ),
        ("latency p50 at 500/s", "ms", Target::ShareOfPython(0.25), |f| f.p50_500),
        ("latency p99 at 500/s", "ms", Target::ShareOfPython(1.0 / 3.0), |f| f.p99_500),
        ("latency p50 at 5,000/s", "ms", Target::None, |f| f.p50_5000),
        ("latency p99 at 5,000/s", "ms", Target::None, |f| f.p99_5000),
        ("resident memory, worker included, after 5,000/s", "MB", Target::AtMost(32.0), |f| f.resident),
    ];
    for (figure, unit, target, pick) in rows {
        let [dunlin, python, node] = [pick(&figures[0]), pick(&figures[1]), pick(&figures[2])];
        table.push(Row { figure: figure.to_owned(), unit, dunlin, python, node, target });
    }
}

fn own_row(table: &mut Table, figure: &str, unit: &'static str, value: Option<f64>, target: Target) {
    table.push(Row { figure: figure.to_owned(), unit, dunlin: value, python: None, node: None, target });
}

fn thread_resident(equipment: &Equipment, lengths: Lengths) -> Outcome<f64> {
    let mut session = Session::start(equipment, plan(Kind::DunlinThread, Qos::AtMostOnce, WIDE, SENSORS))?;
    session.stretch(5_000.0, lengths.ramp)?;
    Ok(session.system.resident_bytes()? as f64 / MEGA)
}

/// Median time from start to ready, in milliseconds.
fn start_ms(equipment: &Equipment) -> Outcome<f64> {
    let broker = Broker::start(&BrokerPlan::default())?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let folder = tempfile::tempdir()?;
        let plan = equipment.dunlin_plan(Kind::Dunlin, broker.port(), Qos::AtLeastOnce, folder.path());
        let (_daemon, took) = plan.start_timed()?;
        times.push(took.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times.get(STARTS / 2).copied().ok_or_else(|| Failure::new("no start was timed"))
}

/// Bytes written a prediction at three rates, and the processor time at the lowest.
fn slow_rates(equipment: &Equipment, lengths: Lengths, table: &mut Table) -> Outcome<()> {
    let mut session = Session::start(equipment, plan(Kind::Dunlin, Qos::AtLeastOnce, NARROW, SENSORS))?;
    let rates =
        [(10.0, 1_000.0, lengths.slow), (100.0, 250.0, lengths.steady), (1_000.0, 250.0, lengths.steady)];
    for (rate, most, length) in rates {
        let bytes = session.stretch(rate, length)?.bytes_per_prediction;
        let figure = format!("bytes written a prediction at {rate}/s");
        own_row(table, &figure, "B", bytes, Target::AtMost(most));
    }
    let share = session.processor_share(10.0, lengths.slow)? * 100.0;
    own_row(table, "processor at 10 readings a second", "% of a core", Some(share), Target::AtMost(0.5));
    Ok(())
}

/// Throughput and memory with many series against few.
fn growth(equipment: &Equipment, lengths: Lengths, few: &Figures, table: &mut Table) -> Outcome<()> {
    let small = Session::start(equipment, plan(Kind::Dunlin, Qos::AtMostOnce, WIDE, SENSORS))?;
    let small_bytes = small.system.resident_bytes()?;
    drop(small);
    let many = lengths.many_sensors;
    let mut session = Session::start(equipment, plan(Kind::Dunlin, Qos::AtMostOnce, WIDE, many))?;
    let extra = session.system.resident_bytes()?.saturating_sub(small_bytes) as f64 / (many - SENSORS) as f64;
    // A row of a window is its time and its values, eight bytes each.
    let window = (ROWS * (COLUMNS + 1) * 8) as f64;
    let figure = format!("resident memory per extra series beside its window of {window} B");
    own_row(table, &figure, "B", Some(extra - window), Target::AtMost(1_000.0));
    let rate = session.sustained(FIRST_RATE, lengths.ramp)?;
    let share = few.sustained.filter(|few| *few > 0.0).map(|few| rate / few * 100.0);
    let figure = format!("throughput with {many} series against {SENSORS}");
    own_row(table, &figure, "%", share, Target::AtLeast(80.0));
    Ok(())
}
