//! The page of the models: what became of each, as tables.
//!
//! Turns the index of the zoo and the results of its runs into Markdown, inside hand-written text. Reads and writes nothing.

use std::collections::BTreeMap;

use serde_json::Value;

/// Longest reason in a table; the whole stands in the results.
const REASON_CHARS_MAX: usize = 160;

/// One model with its result; a model that could not be made has none.
struct Row<'v> {
    model: &'v Value,
    result: Option<&'v Value>,
}

impl Row<'_> {
    fn outcome(&self) -> &str {
        self.result.map_or("not-made", |result| result["outcome"].as_str().unwrap_or("failed"))
    }

    fn difference(&self) -> Option<f64> {
        self.result?["difference"].as_f64()
    }

    /// Rows of a model that runs which agree with a neighbour's alone.
    fn ties(&self) -> Option<u64> {
        self.result?["ties"].as_u64().filter(|rows| *rows > 0)
    }

    /// The measurement of a batch size; of models that run right alone, so that no wrong result counts as a fast one.
    fn latency(&self, batch: u64, key: &str) -> Option<f64> {
        let measured = self.result.filter(|_| self.outcome() == "runs")?["latency"].as_array()?;
        measured.iter().find(|one| one["batch"] == batch)?[key].as_f64()
    }

    fn memory(&self) -> Option<(f64, f64)> {
        let resident = &self.result.filter(|_| self.outcome() == "runs")?["resident"];
        Some((resident["ours_bytes"].as_f64()?, resident["theirs_bytes"].as_f64()?))
    }
}

/// Returns the page: the template with its placeholders filled.
pub(super) fn page(template: &str, index: &Value, results: &[Value], machine: &str) -> String {
    let rows = rows(index, results);
    let versions: Vec<String> = index["versions"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, version)| Some(format!("{name} {}", version.as_str()?)))
        .collect();
    let missing: Vec<&str> =
        index["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut versions = format!("Python {}, {}", index["python"].as_str().unwrap_or("?"), versions.join(", "));
    if !missing.is_empty() {
        versions += &format!("; left out: {}", missing.join("; "));
    }
    [
        ("date", index["date"].as_str().unwrap_or("?").to_owned()),
        ("machine", machine.to_owned()),
        ("versions", versions),
        ("means", means(&rows)),
        ("families", family_table(&rows)),
        ("models", model_tables(&rows)),
    ]
    .into_iter()
    .fold(template.to_owned(), |page, (name, text)| page.replace(&format!("{{{{{name}}}}}"), text.trim_end()))
}

/// Returns what stands over the table, for a terminal.
pub(super) fn summary(index: &Value, results: &[Value]) -> String {
    let rows = rows(index, results);
    format!("{}\n{}", family_table(&rows), means(&rows))
}

/// Returns a result in a few words, for a terminal.
pub(super) fn short(result: &Value) -> String {
    let ratio =
        |n: usize| result["latency"][n]["ratio"].as_f64().map_or(String::new(), |r| format!(" {r:.2}×"));
    let reason = result["reason"].as_str().map_or(String::new(), |why| format!(" {}", shortened(why)));
    format!("{}{}{}{reason}", result["outcome"].as_str().unwrap_or("?"), ratio(0), ratio(1))
}

fn rows<'v>(index: &'v Value, results: &'v [Value]) -> Vec<Row<'v>> {
    let models = index["models"].as_array().map_or(&[][..], Vec::as_slice);
    let find = |model: &Value| results.iter().find(|result| result["model"] == model["name"]);
    models.iter().map(|model| Row { model, result: find(model) }).collect()
}

fn by_family<'r, 'v>(rows: &'r [Row<'v>]) -> Vec<(&'v str, Vec<&'r Row<'v>>)> {
    let mut order = Vec::new();
    let mut found: BTreeMap<&str, Vec<&Row<'_>>> = BTreeMap::new();
    for row in rows {
        let family = row.model["family"].as_str().unwrap_or("?");
        if !order.contains(&family) {
            order.push(family);
        }
        found.entry(family).or_default().push(row);
    }
    order.into_iter().map(|family| (family, found.remove(family).unwrap_or_default())).collect()
}

fn family_table(rows: &[Row<'_>]) -> String {
    let mut text = String::from(
        "| family | models | runs | refused | wrong | failed | largest difference | batch 1 | batch 32 | memory |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (family, rows) in by_family(rows) {
        text += &family_line(family, &rows);
    }
    text += &family_line("**all**", &rows.iter().collect::<Vec<_>>());
    text
}

fn family_line(family: &str, rows: &[&Row<'_>]) -> String {
    let made: Vec<&&Row<'_>> = rows.iter().filter(|row| row.outcome() != "not-made").collect();
    let count = |outcome: &str| made.iter().filter(|row| row.outcome() == outcome).count();
    let worst = made.iter().filter(|row| row.outcome() == "runs").filter_map(|row| row.difference());
    format!(
        "| {family} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        made.len(),
        count("runs"),
        count("refused"),
        count("wrong"),
        count("failed") + count("no-peer"),
        worst.reduce(f64::max).map_or_else(String::new, |worst| format!("{worst:.1e}")),
        times(geometric_mean(made.iter().filter_map(|row| row.latency(1, "ratio")))),
        times(geometric_mean(made.iter().filter_map(|row| row.latency(32, "ratio")))),
        times(geometric_mean(made.iter().filter_map(|row| row.memory()).map(|(ours, theirs)| ours / theirs))),
    )
}

fn means(rows: &[Row<'_>]) -> String {
    let ratio = |batch| times(geometric_mean(rows.iter().filter_map(|row| row.latency(batch, "ratio"))));
    let memory = |pick: fn((f64, f64)) -> f64| {
        let mut found: Vec<f64> = rows.iter().filter_map(Row::memory).map(pick).collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 2).map_or_else(|| "?".to_owned(), |bytes| format!("{:.1} MB", bytes / 1e6))
    };
    if rows.iter().all(|row| row.latency(1, "ratio").is_none()) {
        return "Neither latency nor memory was measured.".to_owned();
    }
    format!(
        "Geometric mean of the latency ratios over all models that run: {} at batch 1, {} at batch 32. Resident memory, \
         median: {} with our engine, {} with ONNX Runtime.",
        ratio(1),
        ratio(32),
        memory(|(ours, _)| ours),
        memory(|(_, theirs)| theirs)
    )
}

fn model_tables(rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    for (family, rows) in by_family(rows) {
        text += &format!(
            "### {}{}\n\n| model | exporter | opset | outcome | difference | µs a row | peer | batch 1 | batch 32 | MB | peer |\n\
             | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
            family[..1].to_uppercase(),
            &family[1..]
        );
        rows.iter().for_each(|row| text += &model_line(row));
        text.push('\n');
    }
    text
}

fn model_line(row: &Row<'_>) -> String {
    let text = |key: &str| row.model[key].as_str().unwrap_or_default().to_owned();
    let opsets: Vec<String> = ["ai.onnx", "ai.onnx.ml"]
        .iter()
        .filter_map(|domain| Some(row.model["opsets"][*domain].as_u64()?.to_string()))
        .collect();
    let reason = row.result.map_or(&row.model["reason"], |result| &result["reason"]);
    let outcome = match (row.outcome(), reason.as_str()) {
        ("runs", _) => {
            row.ties().map_or_else(|| "runs".to_owned(), |rows| format!("runs, {rows} rows at ties"))
        }
        (_, None) => row.outcome().to_owned(),
        (outcome, Some(reason)) => format!("**{outcome}**: {}", shortened(reason)),
    };
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
    let memory = row.memory();
    format!(
        "| {} | {} | {} | {outcome} | {} | {} | {} | {} | {} | {} | {} |\n",
        text("name"),
        text("exporter"),
        opsets.join(", "),
        row.difference().map_or_else(String::new, |difference| format!("{difference:.1e}")),
        number(row.latency(1, "ours_p50_us")),
        number(row.latency(1, "theirs_p50_us")),
        times(row.latency(1, "ratio")),
        times(row.latency(32, "ratio")),
        number(memory.map(|(ours, _)| ours / 1e6)),
        number(memory.map(|(_, theirs)| theirs / 1e6)),
    )
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = ratios.filter(|ratio| *ratio > 0.0).map(f64::ln).collect();
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
}

/// Returns a reason as it may stand in a table.
fn shortened(reason: &str) -> String {
    let plain: String = reason
        .chars()
        .take(REASON_CHARS_MAX)
        .map(|c| if c == '|' || c.is_control() { ' ' } else { c })
        .collect();
    if reason.chars().nth(REASON_CHARS_MAX).is_some() { format!("{}…", plain.trim_end()) } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn latency(ratio: f64) -> Value {
        json!([{ "batch": 1, "ratio": ratio, "ours_p50_us": 2.0, "theirs_p50_us": 4.0 }])
    }

    #[test]
    fn wrong_and_refused_models_are_counted_and_their_times_are_not() {
        let index = json!({ "python": "3", "versions": { "onnx": "1" }, "missing": [], "models": [
            { "name": "a", "family": "trees" }, { "name": "b", "family": "trees" }, { "name": "c", "family": "trees" },
            { "name": "d", "family": "trees", "reason": "exporter | failed" }
        ] });
        let results = [
            json!({ "model": "a", "outcome": "runs", "difference": 1e-6, "ties": 2, "latency": latency(0.5),
                "resident": { "ours_bytes": 10e6, "theirs_bytes": 40e6 } }),
            json!({ "model": "b", "outcome": "wrong", "difference": 0.5, "latency": latency(0.001), "reason": "output `y`" }),
            json!({ "model": "c", "outcome": "refused", "reason": "no operator", "latency": [] }),
        ];
        let page = page("{{families}}\n{{means}}\n{{models}}\n{{versions}}", &index, &results, "machine");
        assert!(page.contains("| trees | 3 | 1 | 1 | 1 | 0 | 1.0e-6 | 0.50 |  | 0.25 |"), "{page}");
        assert!(page.contains("0.50 at batch 1") && page.contains("10.0 MB"), "{page}");
        assert!(
            page.contains("**not-made**: exporter   failed") && page.contains("**wrong**: output `y`"),
            "{page}"
        );
        assert!(!page.contains("0.001"), "{page}");
        assert!(page.contains("| runs, 2 rows at ties |"), "{page}");
    }

    #[test]
    fn what_was_not_measured_is_said_in_words() {
        let index = json!({ "models": [{ "name": "a", "family": "trees" }] });
        let results = [json!({ "model": "a", "outcome": "runs", "difference": 0.0, "latency": [] })];
        assert_eq!(page("{{means}}", &index, &results, ""), "Neither latency nor memory was measured.");
    }

    #[test]
    fn a_mean_of_ratios_is_geometric() {
        assert!((geometric_mean([0.5, 2.0].into_iter()).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(std::iter::empty()), None);
    }
}
