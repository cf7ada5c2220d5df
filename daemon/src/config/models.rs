//! Sources and models: names, packages, windows, triggers and alerts, as far as they can be judged without the
//! pipeline.
//!
//! Opens no package and compiles nothing: trust is the update's to check, fields, units and expressions the pipeline's.

use std::path::PathBuf;

use dunlin_model_package::manifest::WINDOW_LENGTH_MAX;
use dunlin_model_package::model_spec::AlertSpec;
use dunlin_model_package::{ModelSpec, Span, TriggerSpec, WindowSpec};

use super::file::ConfigFile;
use super::finding::Findings;
use super::hint::did_you_mean;
use super::origin::Origins;
use super::resolve::check_name;

/// Checks sources and models; returns where each model's releases come from, where that is configured.
pub(super) fn check(
    file: &ConfigFile,
    origins: &Origins,
    findings: &mut Findings<'_>,
) -> Vec<Option<PathBuf>> {
    if file.source.is_empty() {
        findings.error(
            "source",
            "there is no source",
            "add a `[[source]]` with `name`, `topics`, `format`, `fields`",
        );
    }
    if file.model.is_empty() {
        findings.warning(
            "model",
            "there is no model: readings are kept, nothing is predicted",
            "add a `[[model]]`",
        );
    }
    let source_names: Vec<&str> = file.source.iter().map(|source| source.name.as_str()).collect();
    let model_names: Vec<&str> = file.model.iter().map(|model| model.name.as_str()).collect();
    check_names("source", &source_names, findings);
    check_names("model", &model_names, findings);
    for (index, source) in file.source.iter().enumerate() {
        let path = format!("source[{index}]");
        if source.topics.is_empty() {
            findings.error(
                &format!("{path}.topics"),
                "there is no topic",
                "write for example `[\"plant/{line}/+\"]`",
            );
        }
        if source.series_max == 0 {
            findings.error(&format!("{path}.series_max"), "no series could ever be made", "write at least 1");
        }
        if source.new_topics_per_second_max == 0 {
            let path = format!("{path}.new_topics_per_second_max");
            findings.error(&path, "no topic could ever be taken", "write at least 1");
        }
    }
    let mut packages = Vec::new();
    for (index, model) in file.model.iter().enumerate() {
        let path = format!("model[{index}]");
        check_model(&path, model, &source_names, findings);
        let package_path = format!("{path}.package");
        let package = model.package.as_ref().map(|given| origins.folder_of(&package_path).join(given));
        if let Some(place) = package.as_ref().filter(|place| !place.exists()) {
            let message = format!("there is no bundle or repository `{}`", place.display());
            let hint = "name a bundle of `dunlin bundle export` or a folder of `dunlin publish`, relative to the file \
                        that names it";
            // A folder that went away, as a stick does, must not keep the models from running that are here.
            findings.warning(&package_path, message, hint);
        }
        packages.push(package);
    }
    if file.model.iter().any(|model| model.package.is_some()) && file.trust.root.is_none() {
        let hint = "write `root = \"root.json\"`: the root of trust that `dunlin keys init` made";
        findings.error("trust.root", "packages are named, and no root of trust is", hint);
    }
    packages
}

fn check_names(table: &str, names: &[&str], findings: &mut Findings<'_>) {
    for (index, name) in names.iter().enumerate() {
        let path = format!("{table}[{index}].name");
        if let Err(why) = check_name(name) {
            findings.error(&path, format!("`{name}` {why}"), "choose another name");
        } else if names[..index].contains(name) {
            findings.error(
                &path,
                format!("there is another {table} `{name}`"),
                "give one of them another name",
            );
        }
    }
}

fn check_model(path: &str, model: &ModelSpec, sources: &[&str], findings: &mut Findings<'_>) {
    for (index, name) in model.sources.iter().flatten().enumerate() {
        if !sources.contains(&name.as_str()) {
            let path = format!("{path}.sources[{index}]");
            findings.error(&path, format!("there is no source `{name}`"), did_you_mean(name, sources).1);
        }
    }
    check_window(&format!("{path}.window"), &model.window, findings);
    check_trigger(&format!("{path}.trigger"), &model.trigger, findings);
    if let Some(alert) = &model.alert {
        check_alert(&format!("{path}.alert"), alert, findings);
    }
}

fn check_window(path: &str, window: &WindowSpec, findings: &mut Findings<'_>) {
    let key = |name: &str| format!("{path}.{name}");
    if window.length.is_some_and(|length| !(1..=WINDOW_LENGTH_MAX).contains(&length)) {
        findings.error(&key("length"), "is out of range", format!("write 1 to {WINDOW_LENGTH_MAX} rows"));
    }
    if window.hop == Some(0) {
        findings.error(&key("hop"), "no prediction would ever be made", "write at least 1");
    }
    let zero = Some(Span::default());
    for (name, span) in [("every", window.every), ("resample", window.resample), ("gap_max", window.gap_max)]
    {
        if span == zero {
            findings.error(&key(name), "is zero", "write a length of time such as `10s`");
        }
    }
    match (
        window.every.filter(|span| Some(*span) != zero),
        window.resample.filter(|span| Some(*span) != zero),
    ) {
        (Some(every), None) if window.resample.is_none() => {
            let hint = format!("add `resample`, the width of a row; `{every}` must be a multiple of it");
            findings.error(&key("every"), "a time window needs `resample`", hint);
        }
        (None, Some(resample)) if window.every.is_none() => {
            let hint = format!("add `every`, a multiple of `{resample}`");
            findings.error(&key("resample"), "a time window needs `every`", hint);
        }
        (Some(every), Some(resample)) if every.as_micros() % resample.as_micros() != 0 => {
            let message = format!("`{every}` is no multiple of `resample = \"{resample}\"`");
            findings.error(&key("every"), message, "choose them so that whole rows fit into the interval");
        }
        _ => {}
    }
    if window.every.is_some() && window.hop.is_some() {
        let hint = "remove `hop`; a time window makes a prediction every `every`";
        findings.error(&key("hop"), "counts rows and cannot stand beside `every`", hint);
    }
    if window.method.is_some() && window.resample.is_none() {
        findings.error(
            &key("method"),
            "has no effect without `resample`",
            "add `resample` and `every`, or remove it",
        );
    }
}

fn check_trigger(path: &str, trigger: &TriggerSpec, findings: &mut Findings<'_>) {
    let given = [trigger.on.is_some(), trigger.every.is_some(), trigger.when.is_some()];
    if given.into_iter().filter(|given| *given).count() > 1 {
        findings.error(path, "has more than one of `on`, `every` and `when`", "leave one of them");
    }
    if trigger.every == Some(Span::default()) {
        findings.error(&format!("{path}.every"), "is zero", "write a length of time such as `10s`");
    }
}

fn check_alert(path: &str, alert: &AlertSpec, findings: &mut Findings<'_>) {
    if let Some(debounce) = alert.debounce
        && !((1..=64).contains(&debounce.m) && (1..=debounce.m).contains(&debounce.n))
    {
        let message = format!("`n` = {}, `m` = {} is no n-of-m rule", debounce.n, debounce.m);
        findings.error(
            &format!("{path}.debounce"),
            message,
            "write an `m` of 1 to 64 and an `n` of 1 to `m`",
        );
    }
}
