//! Names of the metrics under `/metrics`: a contract with every dashboard and alert rule, so they never change.
//!
//! Only names and their help texts, in base units (seconds, bytes). Labels are of low cardinality: names from the
//! configuration and fixed words, never topics or series.

/// A metric's name as exposed, and its help text.
#[derive(Debug, Clone, Copy)]
pub struct MetricName {
    /// The name; counters end in `_total`.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
}

macro_rules! metric_names {
    ($($constant:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: MetricName = MetricName { name: $name, help: $help };)*
        /// All metrics.
        pub const ALL: &[MetricName] = &[$($constant),*];
    };
}

metric_names! {
    MQTT_MESSAGES = "dunlin_mqtt_messages_total", "Messages by source and result (matched, or the reason of a refusal)";
    MQTT_CONNECTED = "dunlin_mqtt_connected", "Whether the connection to the broker stands";
    MQTT_CONNECTS = "dunlin_mqtt_connects_total", "Connections made to the broker";
    MQTT_PAYLOAD_BYTES = "dunlin_mqtt_payload_bytes_total", "Payload bytes received from the broker";
    MQTT_IN_FLIGHT = "dunlin_mqtt_in_flight_messages", "Messages received and not acknowledged yet";
    MQTT_DROPPED = "dunlin_mqtt_dropped_messages_total", "Messages given up";
    READINGS = "dunlin_readings_total", "Readings accepted by source";
    PREDICTIONS = "dunlin_predictions_total", "Predictions made by validity";
    PUBLISHED = "dunlin_published_total", "Publications by result (sent, acknowledged, repeated)";
    SERIES = "dunlin_series", "Series known";
    QUEUE = "dunlin_queue_elements", "Elements that wait between two stages";
    INFERENCE_DURATION = "dunlin_inference_duration_seconds", "Time from a message's arrival to its prediction";
    MODEL_INFO = "dunlin_model_info", "The package of each model; always 1";
    SLOT_STATE = "dunlin_slot_state", "1 for the state the model's slot is in, 0 for the others";
    SLOT_WINDOWS = "dunlin_slot_windows_total", "Windows that a model was run on";
    SLOT_RUNS = "dunlin_slot_runs_total", "Runs of the engine; windows are batched";
    SLOT_FAILURES = "dunlin_slot_failures_total", "Windows without outputs by model and cause";
    SLOT_STARTS = "dunlin_slot_starts_total", "Starts of a model's worker";
    SLOT_RESIDENT_BYTES = "dunlin_slot_resident_bytes", "Resident memory of a model's worker";
    SLOT_INSTANCES = "dunlin_slot_instances", "Series keys of a model";
    ROWS_REFUSED = "dunlin_rows_refused_total", "Rows not made or dropped by model and reason";
    STORE_COMMITS = "dunlin_store_commits_total", "Transactions of the telemetry store";
    STORE_WRITTEN_BYTES = "dunlin_store_written_bytes_total", "Bytes written to the block layer";
    STORE_READINGS = "dunlin_store_readings_total", "Readings committed";
    STORE_PREDICTIONS = "dunlin_store_predictions_total", "Predictions committed";
    STORE_USED_BYTES = "dunlin_store_used_bytes", "Bytes in use by the telemetry store";
    STORE_QUOTA_BYTES = "dunlin_store_quota_bytes", "Largest size of the telemetry store";
    STORE_FREE_BYTES = "dunlin_store_free_bytes", "Free bytes of the file system";
    STORE_OK = "dunlin_store_ok", "Whether the telemetry store can be written";
    STORE_QUARANTINED = "dunlin_store_quarantined_batches_total", "Batches whose checksum was wrong";
    DRIFT_WINDOWS = "dunlin_drift_windows_reported_total", "Windows of statistics that were reported, revisions among them";
    DRIFT_SENSORS = "dunlin_drift_sensors", "Sensors that are watched";
    DRIFT_FAULTY_SENSORS = "dunlin_drift_faulty_sensors", "Sensors that are faulty, by what is wrong";
    LOSS = "dunlin_loss_total", "Knowingly lost elements by kind and reason";
    RELOADS = "dunlin_reloads_total", "Accepted configuration reloads";
    UPTIME = "dunlin_uptime_seconds", "Seconds since the daemon started";
    BUILD_INFO = "dunlin_build_info", "Version of the daemon; always 1";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.name.starts_with("dunlin_"), "{}", metric.name);
            assert!(metric.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.help.contains('\n'));
        }
    }
}
