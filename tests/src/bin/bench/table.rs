//! The table of figures: Dunlin, its peers, ratios, targets.
//!
//! Only holds and prints; what cannot be measured stays empty and is never guessed.

use std::fmt::Write;

/// What a figure must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// None is set.
    None,
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// At least these multiples of Python's and Node.js's figures, where they are there.
    TimesPeers(f64, Option<f64>),
    /// At least this multiple of Python's figure and at least this.
    TimesPythonAndAtLeast(f64, f64),
    /// At most this share of Python's figure.
    ShareOfPython(f64),
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) figure: String,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Dunlin's figure.
    pub(crate) dunlin: Option<f64>,
    /// Python's.
    pub(crate) python: Option<f64>,
    /// Node.js's.
    pub(crate) node: Option<f64>,
    /// What it must be.
    pub(crate) target: Target,
}

/// All lines, and what went wrong.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    remarks: Vec<String>,
}

impl Table {
    /// Adds a line.
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a sentence below the table.
    pub(crate) fn remark(&mut self, sentence: String) {
        self.remarks.push(sentence);
    }

    /// Returns the table as Markdown.
    pub(crate) fn to_markdown(&self, machine: &str) -> String {
        let mut text = format!("Measured on {machine}.\n\n");
        text.push_str("| figure | Dunlin | Python | Node.js | to Python | to Node.js | target | met |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |\n");
        for row in &self.rows {
            let cell = |value: Option<f64>| value.map_or_else(String::new, number);
            let ratio = |peer: Option<f64>| match (row.dunlin, peer) {
                (Some(own), Some(peer)) if peer > 0.0 => format!("{:.2}", own / peer),
                _ => String::new(),
            };
            let met = match is_met(row) {
                None => "",
                Some(true) => "yes",
                Some(false) => "**no**",
            };
            let (dunlin, python, node) = (cell(row.dunlin), cell(row.python), cell(row.node));
            let (to_python, to_node) = (ratio(row.python), ratio(row.node));
            let (figure, unit, target) = (&row.figure, row.unit, describe(row.target));
            writeln!(
                text,
                "| {figure}, {unit} | {dunlin} | {python} | {node} | {to_python} | {to_node} | {target} | {met} |"
            )
            .ok();
        }
        for remark in &self.remarks {
            write!(text, "\n{remark}\n").ok();
        }
        text
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn describe(target: Target) -> String {
    match target {
        Target::None => String::new(),
        Target::AtLeast(least) => format!("≥ {}", number(least)),
        Target::AtMost(most) => format!("≤ {}", number(most)),
        Target::TimesPeers(python, Some(node)) => format!("≥ {python} × Python, ≥ {node} × Node.js"),
        Target::TimesPeers(python, None) => format!("≥ {python} × Python"),
        Target::TimesPythonAndAtLeast(times, least) => format!("≥ {times} × Python, ≥ {}", number(least)),
        Target::ShareOfPython(share) => format!("≤ {share:.2} × Python"),
    }
}

/// Tells whether the target is met; nothing where a figure it needs is not there.
fn is_met(row: &Row) -> Option<bool> {
    let own = row.dunlin?;
    match row.target {
        Target::None => None,
        Target::AtLeast(least) => Some(own >= least),
        Target::AtMost(most) => Some(own <= most),
        Target::TimesPeers(python, node) => {
            let beats_python = own >= python * row.python?;
            Some(beats_python && node.is_none_or(|times| row.node.is_none_or(|peer| own >= times * peer)))
        }
        Target::TimesPythonAndAtLeast(times, least) => {
            Some(own >= least && row.python.is_none_or(|peer| own >= times * peer))
        }
        Target::ShareOfPython(share) => Some(own <= share * row.python?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dunlin: f64, python: Option<f64>, target: Target) -> Row {
        Row { figure: "f".to_owned(), unit: "u", dunlin: Some(dunlin), python, node: None, target }
    }

    #[test]
    fn targets_are_judged_only_where_their_figures_are_there() {
        for (row, met) in [
            (row(30.0, Some(10.0), Target::TimesPeers(3.0, Some(2.0))), Some(true)),
            (row(29.0, Some(10.0), Target::TimesPeers(3.0, None)), Some(false)),
            (row(29.0, None, Target::TimesPeers(3.0, None)), None),
            (row(2.0, Some(10.0), Target::ShareOfPython(0.25)), Some(true)),
            (row(9.0, None, Target::TimesPythonAndAtLeast(1.5, 10.0)), Some(false)),
            (row(9.0, None, Target::AtMost(9.0)), Some(true)),
            (row(9.0, None, Target::None), None),
        ] {
            assert_eq!(is_met(&row), met, "{row:?}");
        }
    }

    #[test]
    fn the_table_says_what_was_missed() {
        let mut table = Table::default();
        table.push(row(5.0, Some(10.0), Target::AtLeast(100.0)));
        table.remark("a remark".to_owned());
        let text = table.to_markdown("a machine");
        assert!(text.contains("| f, u | 5.0 | 10.0 |  | 0.50 |  | ≥ 100 | **no** |"), "{text}");
        assert!(text.contains("a machine") && text.contains("a remark"));
    }
}
