//! The list that `dunlin package check` prints: a verdict, a sentence and a remedy a line.
//!
//! Collects and prints; checks nothing.

use serde::Serialize;

use super::Format;
use crate::print;

/// The sections, in the order they are printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Section {
    Manifest,
    Model,
    Evidence,
    Budgets,
    Update,
}

impl Section {
    const ALL: [Self; 5] = [Self::Manifest, Self::Model, Self::Evidence, Self::Budgets, Self::Update];

    const fn title(self) -> &'static str {
        match self {
            Self::Manifest => "Manifest and files",
            Self::Model => "Model",
            Self::Evidence => "Evidence",
            Self::Budgets => "Budgets",
            Self::Update => "Update",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Passed,
    Warning,
    Failed,
    Skipped,
}

impl Verdict {
    const fn sign(self) -> char {
        match self {
            Self::Passed => '✔',
            Self::Warning => '!',
            Self::Failed => '✘',
            Self::Skipped => '-',
        }
    }
}

#[derive(Debug, Serialize)]
struct Line {
    section: Section,
    verdict: Verdict,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// All lines so far, and what was measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<Line>,
    measurements: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    pub(super) fn pass(&mut self, section: Section, message: impl Into<String>) {
        self.push(section, Verdict::Passed, message.into(), None);
    }

    pub(super) fn skip(&mut self, section: Section, message: impl Into<String>) {
        self.push(section, Verdict::Skipped, message.into(), None);
    }

    pub(super) fn warn(&mut self, section: Section, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(section, Verdict::Warning, message.into(), Some(remedy.into()));
    }

    pub(super) fn fail(&mut self, section: Section, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(section, Verdict::Failed, message.into(), Some(remedy.into()));
    }

    /// Keeps a number for programs.
    pub(super) fn record(&mut self, name: &str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.measurements.insert(name.to_owned(), value);
    }

    pub(super) fn failed(&self) -> usize {
        self.count(Verdict::Failed)
    }

    fn push(&mut self, section: Section, verdict: Verdict, message: String, remedy: Option<String>) {
        self.lines.push(Line { section, verdict, message, remedy });
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().filter(|line| line.verdict == verdict).count()
    }

    pub(super) fn print(&self, format: Format) {
        match format {
            Format::Text => self.print_text(),
            Format::Json => {
                let outcome = if self.failed() > 0 { "failed" } else { "passed" };
                let report = serde_json::json!({
                    "outcome": outcome,
                    "checks": self.lines,
                    "measured": self.measurements,
                });
                print::line(&format!("{report:#}"));
            }
        }
    }

    fn print_text(&self) {
        for section in Section::ALL {
            let mut lines = self.lines.iter().filter(|line| line.section == section).peekable();
            if lines.peek().is_none() {
                continue;
            }
            print::line(section.title());
            for line in lines {
                print::line(&format!("  {} {}", line.verdict.sign(), line.message));
                if let Some(remedy) = &line.remedy {
                    print::line(&format!("      {remedy}"));
                }
            }
            print::line("");
        }
        print::line(&format!(
            "{} passed, {} warnings, {} failed, {} left out",
            self.count(Verdict::Passed),
            self.count(Verdict::Warning),
            self.count(Verdict::Failed),
            self.count(Verdict::Skipped)
        ));
    }
}
