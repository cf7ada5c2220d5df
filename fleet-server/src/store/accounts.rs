//! What became of the numbers of each stream of a gateway: received, held back, given up, kept no longer.
//!
//! Counts and sets alone; rows are elsewhere. Every number that the gateway has used is in one of them, or unexplained.

use std::collections::BTreeMap;

use dunlin_protocol::Ranges;
use dunlin_protocol::limits::RANGES_MAX;

use super::{Sql, StoreError, messages};

/// What became of the numbers of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Numbers that were received, those that a policy held back among them.
    pub received: Ranges,
    /// Numbers that the gateway gave up before they were received.
    pub lost: Ranges,
    /// Rows that came.
    pub rows: u64,
    /// Numbers whose rows a policy held back.
    pub held_back: u64,
    /// Rows that came and are not kept any more.
    pub expired: u64,
}

impl Account {
    /// Returns the numbers up to the highest known that nobody has accounted for: those that are on their way, or missing.
    #[must_use]
    pub fn unexplained(&self) -> Ranges {
        let known = self.received.union(&self.lost);
        let all = known.last().and_then(|last| dunlin_protocol::Range::new(1, last).ok());
        all.map_or_else(Ranges::new, |all| Ranges::from(all).subtract(&known))
    }
}

/// Counts rows that came, and numbers that were held back.
///
/// *Errors*: the store's.
pub fn add(
    sql: &mut dyn Sql,
    (device, stream): (&str, &str),
    rows: u64,
    held_back: u64,
) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO account VALUES ($1, $2, $3, $4, 0, '[]') ON CONFLICT (device, stream) DO UPDATE SET \
         row_count = account.row_count + $3, held_back = account.held_back + $4",
        &[device.into(), stream.into(), rows.into(), held_back.into()],
    )?;
    Ok(())
}

/// Counts rows that are kept no longer.
///
/// *Errors*: the store's.
pub fn expire(sql: &mut dyn Sql, (device, stream): (&str, &str), rows: u64) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE account SET expired = expired + $3 WHERE device = $1 AND stream = $2",
        &[device.into(), stream.into(), rows.into()],
    )?;
    Ok(())
}

/// Notes numbers that a gateway gave up. Of more ranges than a list has, the lowest are kept.
///
/// *Errors*: the store's.
pub fn lose(sql: &mut dyn Sql, (device, stream): (&str, &str), lost: &Ranges) -> Result<(), StoreError> {
    add(sql, (device, stream), 0, 0)?;
    let before = "SELECT lost FROM account WHERE device = $1 AND stream = $2";
    let row = sql.query_optional(before, &[device.into(), stream.into()])?;
    let before = row.map(|mut row| row.take::<String>(0)).transpose()?;
    let all = read(before.as_deref().unwrap_or("[]"))?.union(lost).lowest(RANGES_MAX);
    let text = serde_json::to_string(&all)
        .map_err(|_| StoreError::Damaged("lost numbers cannot be written".to_owned()))?;
    sql.execute(
        "UPDATE account SET lost = $3 WHERE device = $1 AND stream = $2",
        &[device.into(), stream.into(), text.into()],
    )?;
    Ok(())
}

/// Returns the numbers of a stream that were received or given up.
///
/// *Errors*: the store's.
pub fn known(sql: &mut dyn Sql, (device, stream): (&str, &str)) -> Result<Ranges, StoreError> {
    let received = messages::received(sql, device, stream)?;
    let sql_text = "SELECT lost FROM account WHERE device = $1 AND stream = $2";
    let row = sql.query_optional(sql_text, &[device.into(), stream.into()])?;
    let lost = row.map(|mut row| row.take::<String>(0)).transpose()?;
    Ok(received.union(&read(lost.as_deref().unwrap_or("[]"))?))
}

fn read(text: &str) -> Result<Ranges, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Damaged("lost numbers cannot be read".to_owned()))
}

/// Returns the accounts of a gateway by stream.
///
/// *Errors*: the store's.
pub fn of(sql: &mut dyn Sql, device: &str) -> Result<BTreeMap<String, Account>, StoreError> {
    let all = "SELECT stream, row_count, held_back, expired, lost FROM account WHERE device = $1";
    let mut accounts = BTreeMap::new();
    for mut row in sql.query(all, &[device.into()])? {
        let stream: String = row.take(0)?;
        let received = messages::received(sql, device, &stream)?;
        // What was given up and had arrived all the same did arrive.
        let lost = read(&row.take::<String>(4)?)?.subtract(&received);
        let (rows, held_back, expired) = (row.take(1)?, row.take(2)?, row.take(3)?);
        accounts.insert(stream, Account { received, lost, rows, held_back, expired });
    }
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_nobody_accounted_for_are_named() {
        let ranges = |text: &str| serde_json::from_str::<Ranges>(text).unwrap();
        for (received, lost, unexplained) in [
            ("[]", "[]", "[]"),
            ("[[1,9]]", "[]", "[]"),
            ("[[4,5]]", "[]", "[[1,3]]"),
            ("[[1,3],[8,9]]", "[[4,7]]", "[]"),
            ("[[1,3]]", "[[5,7]]", "[[4,4]]"),
        ] {
            let account = Account { received: ranges(received), lost: ranges(lost), ..Account::default() };
            assert_eq!(account.unexplained(), ranges(unexplained), "{received} {lost}");
        }
    }
}
