//! What enters the pipeline: one MQTT message with the circumstances of its arrival.
//!
//! Borrows topic and payload; never copies them. The daemon, golden vectors and replay all make these.

/// A message as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Message<'m> {
    /// Name of the broker it came from; `None` is the default one.
    pub broker: Option<&'m str>,
    /// Its topic.
    pub topic: &'m str,
    /// Its payload.
    pub payload: &'m [u8],
    /// Whether the broker had retained it.
    pub retained: bool,
    /// When it arrived, in microseconds since 1970 by the gateway's clock.
    pub arrival_us: i64,
    /// Whether that clock was ever set: without it, future and age cannot be judged.
    pub clock: ClockState,
}

/// Whether the gateway's wall clock can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// It was set.
    Set,
    /// It shows a time before this program was built.
    Unset,
}
