//! Which class of board this is: the key under which a manifest holds what its model may take here.
//!
//! Reads one file of the device tree; never measures anything. Admission compares a model's latency with the budget of
//! the board's class.

use std::collections::BTreeMap;

use dunlin_model_package::Span;

/// Where the kernel tells the board's name; ends with a zero byte. Only boards with a device tree have it.
const MODEL_FILE: &str = "/proc/device-tree/model";
/// Key of the budget for every board that has no budget of its own.
pub const ANY_BOARD: &str = "any";

/// A board's class and its architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardClass {
    class: Option<&'static str>,
    architecture: &'static str,
}

impl BoardClass {
    /// Returns the class of the board that this program runs on.
    #[must_use]
    pub fn of_this_board() -> Self {
        let model = std::fs::read_to_string(MODEL_FILE).unwrap_or_default();
        Self::of(&model, std::env::consts::ARCH)
    }

    /// Returns the class of a board with this name in its device tree (empty where there is none) and this
    /// architecture, as Rust names it.
    #[must_use]
    pub fn of(model: &str, architecture: &'static str) -> Self {
        let architecture = if architecture == "arm" { "armv7" } else { architecture };
        Self { class: class_of(model.trim_end_matches('\0').trim()), architecture }
    }

    /// Returns the name for people: the class, or the architecture of a board that has none.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.class.unwrap_or(self.architecture)
    }

    /// Returns this board's budget and the key that holds it: that of its class, else of its architecture, else
    /// [`ANY_BOARD`].
    #[must_use]
    pub fn budget(&self, budgets: &BTreeMap<String, Span>) -> Option<(&'static str, Span)> {
        self.class
            .into_iter()
            .chain([self.architecture, ANY_BOARD])
            .find_map(|key| budgets.get(key).map(|budget| (key, *budget)))
    }
}

/// Boards by the beginning of their names, longer ones first: compute modules and keyboards are as fast as the board
/// they hold.
const CLASSES: [(&str, &str); 13] = [
    ("Raspberry Pi Zero 2", "pizero2"),
    ("Raspberry Pi Zero", "pizero"),
    ("Raspberry Pi Compute Module 3", "pi3"),
    ("Raspberry Pi Compute Module 4", "pi4"),
    ("Raspberry Pi Compute Module 5", "pi5"),
    ("Raspberry Pi 400", "pi4"),
    ("Raspberry Pi 500", "pi5"),
    ("Raspberry Pi 2 ", "pi2"),
    ("Raspberry Pi 3 ", "pi3"),
    ("Raspberry Pi 4 ", "pi4"),
    ("Raspberry Pi 5 ", "pi5"),
    ("Raspberry Pi Compute Module ", "pi1"),
    ("Raspberry Pi Model ", "pi1"),
];

fn class_of(model: &str) -> Option<&'static str> {
    CLASSES.into_iter().find(|(name, _)| model.starts_with(name)).map(|(_, class)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_have_the_class_of_their_processor() {
        for (model, expected) in [
            ("Raspberry Pi Zero W Rev 1.1\0", "pizero"),
            ("Raspberry Pi Zero 2 W Rev 1.0\0", "pizero2"),
            ("Raspberry Pi 2 Model B Rev 1.1\0", "pi2"),
            ("Raspberry Pi 3 Model B Plus Rev 1.3\0", "pi3"),
            ("Raspberry Pi 3 Model A Plus Rev 1.0", "pi3"),
            ("Raspberry Pi Compute Module 3 Plus Rev 1.0\0", "pi3"),
            ("Raspberry Pi 4 Model B Rev 1.4\0", "pi4"),
            ("Raspberry Pi 400 Rev 1.0\0", "pi4"),
            ("Raspberry Pi Compute Module 4S Rev 1.0\0", "pi4"),
            ("Raspberry Pi 5 Model B Rev 1.0\0", "pi5"),
            ("Raspberry Pi 500 Rev 1.0\0", "pi5"),
            ("Raspberry Pi Compute Module 5 Lite Rev 1.0\0", "pi5"),
            ("Raspberry Pi Model B Rev 2\0", "pi1"),
            ("Radxa ROCK 4C+\0", "aarch64"),
            ("Raspberry Pi", "aarch64"),
            ("\0", "aarch64"),
            ("", "aarch64"),
        ] {
            assert_eq!(BoardClass::of(model, "aarch64").name(), expected, "{model:?}");
        }
        assert_eq!(BoardClass::of("", "arm").name(), "armv7");
        assert_eq!(BoardClass::of("", "x86_64").name(), "x86_64");
    }

    #[test]
    fn the_nearest_budget_counts() {
        let board = BoardClass::of("Raspberry Pi 4 Model B Rev 1.4\0", "aarch64");
        let of = |keys: &[&str]| {
            let budgets =
                keys.iter().enumerate().map(|(n, key)| ((*key).to_owned(), Span::from_millis(n as i64 + 1)));
            board.budget(&budgets.collect()).map(|(key, budget)| (key, budget.as_micros() / 1_000))
        };
        assert_eq!(of(&["any", "aarch64", "pi4", "pi5"]), Some(("pi4", 3)));
        assert_eq!(of(&["any", "aarch64", "pi5"]), Some(("aarch64", 2)));
        assert_eq!(of(&["any", "pi5"]), Some(("any", 1)));
        assert_eq!(of(&["pi5", "x86_64"]), None);
    }
}
