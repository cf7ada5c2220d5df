//! What gateways upload and how the server is run: over both databases, through kills, backups and floods.

mod backups;
mod floods;
mod kills;
mod letters;
mod receipts;

use dunlin_e2e::Outcome;
use dunlin_e2e::postgres::Postgres;
use dunlin_e2e::workspace::skip;
use dunlin_fleet::http::Bounds;
use dunlin_fleet::store::image;

use crate::serving::Running;

/// Runs a case over each database.
fn over_both(case: impl Fn(&Running) -> Outcome<()>) -> Outcome<()> {
    case(&Running::start()?)?;
    if !Postgres::is_installed() {
        skip("PostgreSQL is not installed");
        return Ok(());
    }
    let server = Postgres::start()?;
    let url = server.new_database("fleet")?;
    let running = Running::open(Bounds::default(), tempfile::tempdir()?, Some(url), None)?;
    running.write(|sql| image::put(sql, "root", 1, crate::serving::ROOT))?;
    case(&running)
}
