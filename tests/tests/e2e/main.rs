//! End-to-end tests: the daemon as a process, a real broker, faults from outside, an oracle.
//!
//! One binary, so that the harness is linked once. Each test has its own broker, folders and ports, and never waits
//! without a limit.

mod clocks;
mod damage;
mod disk;
mod garbage;
mod keys;
mod kills;
mod lifecycle;
mod models;
mod oracle_runs;
mod profiles;
mod publishing;
mod tutorial;
mod updates;
