//! The list that `dunlind check` prints: a verdict, a sentence and a remedy a line.
//!
//! Collects and prints; checks nothing.

use std::io::{self, Write};

use serde::Serialize;

use super::{Outcome, Output};
use crate::config::{ConfigErrors, Finding};

/// The sections, in the order they are printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Section {
    Configuration,
    Packages,
    Connectivity,
    Fleet,
    Readiness,
}

impl Section {
    const ALL: [Self; 5] =
        [Self::Configuration, Self::Packages, Self::Connectivity, Self::Fleet, Self::Readiness];

    const fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration",
            Self::Packages => "Packages",
            Self::Connectivity => "Connectivity",
            Self::Fleet => "Fleet server",
            Self::Readiness => "Production readiness",
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

/// All lines so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<Line>,
    refused: Vec<Finding>,
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

    pub(super) fn refuse_configuration(&mut self, errors: &ConfigErrors) {
        for finding in &errors.0 {
            let place = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
            let message = format!("{}: {place}{}", finding.origin, finding.message);
            self.push(Section::Configuration, Verdict::Failed, message, finding.hint.clone());
        }
        self.refused.clone_from(&errors.0);
    }

    fn push(&mut self, section: Section, verdict: Verdict, message: String, remedy: Option<String>) {
        self.lines.push(Line { section, verdict, message, remedy });
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().filter(|line| line.verdict == verdict).count()
    }

    /// Returns the number of warnings and failures so far.
    pub(super) fn troubles(&self) -> usize {
        self.count(Verdict::Warning) + self.count(Verdict::Failed)
    }

    pub(super) fn outcome(&self) -> Outcome {
        if !self.refused.is_empty() {
            Outcome::BadConfiguration
        } else if self.count(Verdict::Failed) > 0 {
            Outcome::Failed
        } else {
            Outcome::Passed
        }
    }

    pub(super) fn print(&self, output: Output, out: &mut dyn Write) -> io::Result<()> {
        match output {
            Output::Text => self.print_text(out),
            Output::Json => self.print_json(out),
        }
    }

    fn print_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for section in Section::ALL {
            let mut lines = self.lines.iter().filter(|line| line.section == section).peekable();
            if lines.peek().is_none() {
                continue;
            }
            writeln!(out, "{}", section.title())?;
            for line in lines {
                writeln!(out, "  {} {}", line.verdict.sign(), line.message)?;
                if let Some(remedy) = &line.remedy {
                    writeln!(out, "      {remedy}")?;
                }
            }
            writeln!(out)?;
        }
        let (passed, warned) = (self.count(Verdict::Passed), self.count(Verdict::Warning));
        let (failed, skipped) = (self.count(Verdict::Failed), self.count(Verdict::Skipped));
        writeln!(out, "{passed} passed, {warned} warnings, {failed} failed, {skipped} left out")
    }

    fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let outcome = match self.outcome() {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::BadConfiguration => "bad-configuration",
        };
        let report = serde_json::json!({
            "outcome": outcome,
            "checks": self.lines,
            "configuration_errors": self.refused,
        });
        writeln!(out, "{report:#}")
    }
}
