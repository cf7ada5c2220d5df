//! Where each value of the merged configuration came from.
//!
//! Maps dotted paths such as `source[0].fields.x.unit` to a line of a file, an environment variable or a `--set`
//! option; never holds a value. Filled while the layers are merged, read by everything that reports a finding.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In an environment variable of this name.
    Environment(String),
    /// On the command line, as `--set` with this key.
    Set(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Set(key) => write!(f, "--set {key}"),
        }
    }
}

/// The origins of all values, by path.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    main: PathBuf,
    by_path: BTreeMap<String, Origin>,
}

impl Origins {
    /// Returns an empty map; what has no origin of its own is charged to the main file `main`.
    #[must_use]
    pub fn new(main: &Path) -> Self {
        Self { main: main.to_owned(), by_path: BTreeMap::new() }
    }

    /// Returns the origin of exactly this path, if a layer wrote it.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&Origin> {
        self.by_path.get(path)
    }

    /// Returns the origin of this path, or else of the nearest table around it, or else the main file's first line.
    #[must_use]
    pub fn nearest(&self, path: &str) -> Origin {
        let mut rest = path;
        loop {
            if let Some(origin) = self.by_path.get(rest) {
                return origin.clone();
            }
            match rest.rfind(['.', '[']) {
                Some(cut) => rest = &rest[..cut],
                None => return Origin::File { path: self.main.clone(), line: 1, column: 1 },
            }
        }
    }

    /// Returns the folder that a relative file name at this path is meant in: that of the file that writes it, or the
    /// working directory for the environment and the command line.
    #[must_use]
    pub fn folder_of(&self, path: &str) -> PathBuf {
        match self.nearest(path) {
            Origin::File { path, .. } => path.parent().map(Path::to_owned).unwrap_or_default(),
            Origin::Environment(_) | Origin::Set(_) => PathBuf::new(),
        }
    }

    pub(super) fn insert(&mut self, path: String, origin: Origin) {
        self.by_path.insert(path, origin);
    }

    /// Forgets what is below a path, whose value another layer replaces.
    pub(super) fn forget(&mut self, path: &str) {
        self.by_path.retain(|known, _| !is_at_or_below(known, path));
    }

    /// Moves the origins of a renamed key.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let moved: Vec<String> =
            self.by_path.keys().filter(|known| is_at_or_below(known, from)).cloned().collect();
        for known in moved {
            if let Some(origin) = self.by_path.remove(&known) {
                self.by_path.insert(format!("{to}{}", &known[from.len()..]), origin);
            }
        }
    }
}

/// Tells whether a path is `ancestor` or inside it.
pub(super) fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// One step of a path into the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a table.
    Key(String),
    /// Into an array.
    Index(usize),
}

/// Returns the text of a path.
pub(super) fn path_text(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |text, step| match step {
        Step::Key(key) => child(&text, key),
        Step::Index(index) => element(&text, *index),
    })
}

/// Returns the path of a key in the table at `parent`.
pub(super) fn child(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// Returns the path of an element of the array at `parent`.
pub(super) fn element(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_origin_is_charged_to_the_table_around_it() {
        let mut origins = Origins::new(Path::new("/etc/dunlin/dunlind.toml"));
        let header = Origin::File { path: "conf.d/a.toml".into(), line: 4, column: 3 };
        origins.insert("source[1]".to_owned(), header.clone());
        assert_eq!(origins.nearest("source[1].fields.x.pointer"), header);
        assert_eq!(origins.nearest("source[11].name").to_string(), "/etc/dunlin/dunlind.toml:1");
        assert_eq!(origins.folder_of("source[1].name"), Path::new("conf.d"));
    }

    #[test]
    fn a_renamed_key_takes_its_origins_along() {
        let mut origins = Origins::new(Path::new("m"));
        origins.insert("a.tpoic".to_owned(), Origin::Set("x".to_owned()));
        origins.insert("a.tpoic[0]".to_owned(), Origin::Set("y".to_owned()));
        origins.insert("a.tpoics".to_owned(), Origin::Set("z".to_owned()));
        origins.rename("a.tpoic", "a.topic");
        assert!(origins.exact("a.tpoic").is_none());
        assert_eq!(origins.exact("a.topic[0]"), Some(&Origin::Set("y".to_owned())));
        assert!(origins.exact("a.tpoics").is_some());
    }
}
