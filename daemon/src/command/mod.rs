//! The commands of `dunlind`, one file each.

pub mod check;
