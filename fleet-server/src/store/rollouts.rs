//! Rollouts: their states, the gateways that each chose, and what these are still to be told.
//!
//! A state is kept only over the one that it was made of. Decides nothing: what becomes of a rollout is the machine's.

use std::collections::BTreeMap;

use super::{Row, Sql, StoreError, Value};
use crate::rollout::facts::Intent;
use crate::rollout::query::Query;
use crate::rollout::state::{Act, Member, Rollout};

/// A rollout as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its state, with its members where they were asked for.
    pub rollout: Rollout,
    /// Rises with every change that people decide by.
    pub revision: u64,
    /// Rises with every change.
    pub turn: u64,
    /// When it was made, in ms.
    pub created_ms: u64,
    /// When it last changed in a way that people decide by, in ms.
    pub changed_ms: u64,
}

/// What a gateway is still to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// To run the releases.
    Assign,
    /// To leave them.
    Withdraw,
    /// Nothing of them any more.
    Drop,
}

impl Pending {
    const fn word(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Withdraw => "withdraw",
            Self::Drop => "drop",
        }
    }

    fn of(word: &str) -> Result<Self, StoreError> {
        [Self::Assign, Self::Withdraw, Self::Drop]
            .into_iter()
            .find(|pending| pending.word() == word)
            .ok_or_else(|| StoreError::Damaged(format!("a gateway is still to be told `{word}`")))
    }

    const fn of_act(act: &Act) -> Self {
        match act {
            Act::Assign(_) => Self::Assign,
            Act::Withdraw(_) => Self::Withdraw,
            Act::Drop(_) => Self::Drop,
        }
    }
}

/// One rule of the approval policy.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ApprovalRule {
    /// Which gateways.
    pub query: Query,
    /// How many people must approve what they are given.
    pub approvals: u32,
}

const COLUMNS: &str = "id, revision, turn, state, created_ms, changed_ms";

fn damaged(what: &str, id: &str) -> StoreError {
    StoreError::Damaged(format!("{what} of rollout `{id}` cannot be read"))
}

fn kept(mut row: Row) -> Result<Kept, StoreError> {
    let id: String = row.take(0)?;
    let state: String = row.take(3)?;
    let rollout = serde_json::from_str(&state).map_err(|_| damaged("the state", &id))?;
    Ok(Kept {
        rollout,
        revision: row.take(1)?,
        turn: row.take(2)?,
        created_ms: row.take(4)?,
        changed_ms: row.take(5)?,
    })
}

/// Returns the state without the members, which have rows of their own.
fn state_text(rollout: &Rollout) -> Result<String, StoreError> {
    let bare = Rollout { members: BTreeMap::new(), ..rollout.clone() };
    serde_json::to_string(&bare).map_err(|_| damaged("the state", &rollout.id))
}

/// Writes a new rollout.
///
/// *Errors*: [`StoreError::Conflict`] where there is one of this id.
pub fn insert(sql: &mut dyn Sql, rollout: &Rollout, now_ms: u64) -> Result<Kept, StoreError> {
    sql.execute(
        "INSERT INTO rollout (id, revision, turn, status, state, created_ms, changed_ms, started_ms) \
         VALUES ($1, 1, 0, $2, $3, $4, $4, 0)",
        &[
            rollout.id.as_str().into(),
            rollout.status.word().into(),
            state_text(rollout)?.into(),
            now_ms.into(),
        ],
    )?;
    Ok(Kept { rollout: rollout.clone(), revision: 1, turn: 0, created_ms: now_ms, changed_ms: now_ms })
}

/// Returns a rollout without its members.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, id: &str) -> Result<Option<Kept>, StoreError> {
    let found = format!("SELECT {COLUMNS} FROM rollout WHERE id = $1");
    sql.query_optional(&found, &[id.into()])?.map(kept).transpose()
}

/// Returns a rollout with its members.
///
/// *Errors*: the store's.
pub fn get_whole(sql: &mut dyn Sql, id: &str) -> Result<Option<Kept>, StoreError> {
    let Some(mut kept) = get(sql, id)? else { return Ok(None) };
    kept.rollout.members = members(sql, id, "", u32::MAX)?.into_iter().collect();
    Ok(Some(kept))
}

/// Returns rollouts before an id, the newest first, without members, at most `limit`; from the newest where it is empty.
///
/// *Errors*: the store's.
pub fn page(sql: &mut dyn Sql, before: &str, limit: u32) -> Result<Vec<Kept>, StoreError> {
    let found = format!("SELECT {COLUMNS} FROM rollout WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2");
    sql.query(&found, &[before.into(), limit.into()])?.into_iter().map(kept).collect()
}

/// Returns the ids and turns of the rollouts that time and reports can change, with their states in a word.
///
/// *Errors*: the store's.
pub fn live(sql: &mut dyn Sql) -> Result<Vec<(String, u64, String)>, StoreError> {
    let rows = sql.query(
        "SELECT id, turn, status FROM rollout \
         WHERE status IN ('running', 'paused', 'halted', 'reverting', 'completed') ORDER BY id",
        &[],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?, row.take(2)?))).collect()
}

/// Returns members after a gateway's id, in that order, at most `limit`.
///
/// *Errors*: the store's.
pub fn members(
    sql: &mut dyn Sql,
    id: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<(String, Member)>, StoreError> {
    let rows = sql.query(
        "SELECT device, body, settings_before, settings_revision FROM rollout_member \
         WHERE rollout = $1 AND device > $2 ORDER BY device LIMIT $3",
        &[id.into(), after.into(), limit.into()],
    )?;
    let member = |mut row: Row| {
        let body: String = row.take(1)?;
        let mut member: Member = serde_json::from_str(&body).map_err(|_| damaged("a member", id))?;
        member.settings_before = row.take(2)?;
        member.settings_revision = row.take(3)?;
        Ok((row.take(0)?, member))
    };
    rows.into_iter().map(member).collect()
}

/// Keeps what was made of a rollout with what its gateways are to be told, over the state that it was made of. Returns it
/// as it is kept; nothing, and nothing is changed, where somebody kept another one in between.
///
/// *Errors*: the store's.
pub fn put(
    sql: &mut dyn Sql,
    before: &Kept,
    after: &Rollout,
    acts: &[Act],
    now_ms: u64,
) -> Result<Option<Kept>, StoreError> {
    let is_news = !after.stands_as(&before.rollout);
    let kept = Kept {
        rollout: after.clone(),
        revision: before.revision + u64::from(is_news),
        turn: before.turn + 1,
        created_ms: before.created_ms,
        changed_ms: if is_news { now_ms } else { before.changed_ms },
    };
    let changed = sql.execute(
        "UPDATE rollout SET revision = $3, turn = $4, status = $5, state = $6, changed_ms = $7, started_ms = $8 \
         WHERE id = $1 AND turn = $2",
        &[
            after.id.as_str().into(),
            before.turn.into(),
            kept.revision.into(),
            kept.turn.into(),
            after.status.word().into(),
            state_text(after)?.into(),
            kept.changed_ms.into(),
            after.started_ms.into(),
        ],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    for (device, member) in &after.members {
        let earlier = before.rollout.members.get(device);
        if earlier == Some(member) {
            continue;
        }
        let bare = Member { settings_before: None, settings_revision: None, ..member.clone() };
        let body = serde_json::to_string(&bare).map_err(|_| damaged("a member", &after.id))?;
        let (outcome, _) = member.outcome.word();
        let values: [Value; 4] =
            [after.id.as_str().into(), device.as_str().into(), body.into(), outcome.into()];
        // A gateway that is new comes in once: another row of it is a conflict.
        let statement = match earlier {
            None => "INSERT INTO rollout_member (rollout, device, body, outcome) VALUES ($1, $2, $3, $4)",
            Some(_) => "UPDATE rollout_member SET body = $3, outcome = $4 WHERE rollout = $1 AND device = $2",
        };
        sql.execute(statement, &values)?;
    }
    for act in acts {
        sql.execute(
            "UPDATE rollout_member SET pending = $3 WHERE rollout = $1 AND device = $2",
            &[after.id.as_str().into(), act.device().into(), Pending::of_act(act).word().into()],
        )?;
    }
    Ok(Some(kept))
}

/// Returns gateways that are still to be told something, with what, at most `limit`.
///
/// *Errors*: the store's.
pub fn pending(sql: &mut dyn Sql, limit: u32) -> Result<Vec<(String, String)>, StoreError> {
    let rows = sql.query(
        "SELECT rollout, device FROM rollout_member WHERE pending IS NOT NULL \
         ORDER BY rollout DESC, device LIMIT $1",
        &[limit.into()],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

/// Returns what a gateway is still to be told, and notes that it is.
///
/// *Errors*: the store's.
pub fn take_pending(
    sql: &mut dyn Sql,
    rollout: &str,
    device: &str,
) -> Result<Option<(Pending, Member)>, StoreError> {
    let row = sql.query_optional(
        "SELECT pending, body, settings_before, settings_revision FROM rollout_member \
         WHERE rollout = $1 AND device = $2 AND pending IS NOT NULL",
        &[rollout.into(), device.into()],
    )?;
    let Some(mut row) = row else { return Ok(None) };
    let body: String = row.take(1)?;
    let mut member: Member = serde_json::from_str(&body).map_err(|_| damaged("a member", rollout))?;
    member.settings_before = row.take(2)?;
    member.settings_revision = row.take(3)?;
    sql.execute(
        "UPDATE rollout_member SET pending = NULL WHERE rollout = $1 AND device = $2",
        &[rollout.into(), device.into()],
    )?;
    Ok(Some((Pending::of(&row.take::<String>(0)?)?, member)))
}

/// Returns when a gateway found bad what people then had it given again, in ms by its own clock.
///
/// *Errors*: the store's.
pub fn retried_failure(sql: &mut dyn Sql, rollout: &str, device: &str) -> Result<Option<i64>, StoreError> {
    let row = sql.query_optional(
        "SELECT body FROM rollout_member WHERE rollout = $1 AND device = $2",
        &[rollout.into(), device.into()],
    )?;
    let Some(mut row) = row else { return Ok(None) };
    let body: String = row.take(0)?;
    let member: Member = serde_json::from_str(&body).map_err(|_| damaged("a member", rollout))?;
    Ok(member.known.and_then(|failure| failure.at_ms))
}

/// Keeps which settings a member had before, and at which revision it was given the rollout's.
///
/// *Errors*: the store's.
pub fn note_settings(
    sql: &mut dyn Sql,
    rollout: &str,
    device: &str,
    before: Option<&str>,
    revision: Option<u64>,
) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE rollout_member SET settings_before = $3, settings_revision = $4 WHERE rollout = $1 AND device = $2",
        &[rollout.into(), device.into(), before.into(), revision.into()],
    )?;
    // Whoever has the members in memory reads them again.
    sql.execute("UPDATE rollout SET turn = turn + 1 WHERE id = $1", &[rollout.into()])?;
    Ok(())
}

/// Returns which rollouts chose what gateways are to run, by gateway and slot.
///
/// *Errors*: the store's.
pub fn intents(sql: &mut dyn Sql) -> Result<Vec<(String, String, Intent)>, StoreError> {
    let rows = sql.query(
        "SELECT d.device, d.model, d.rollout, r.started_ms FROM desired d JOIN rollout r ON r.id = d.rollout \
         UNION ALL SELECT s.device, $1, s.rollout, r.started_ms FROM desired_settings s \
         JOIN rollout r ON r.id = s.rollout",
        &[super::desired::SETTINGS_SLOT.into()],
    )?;
    let intent = |mut row: Row| {
        let intent = Intent { rollout: row.take(2)?, started_ms: row.take(3)? };
        Ok((row.take(0)?, row.take(1)?, intent))
    };
    rows.into_iter().map(intent).collect()
}

/// Returns which rollout chose what a gateway is to run in a slot.
///
/// *Errors*: the store's.
pub fn intent_of(sql: &mut dyn Sql, device: &str, slot: &str) -> Result<Option<Intent>, StoreError> {
    let of_model = "SELECT d.rollout, r.started_ms FROM desired d JOIN rollout r ON r.id = d.rollout \
         WHERE d.device = $1 AND d.model = $2";
    let of_settings = "SELECT s.rollout, r.started_ms FROM desired_settings s JOIN rollout r ON r.id = s.rollout \
         WHERE s.device = $1";
    let row = if slot == super::desired::SETTINGS_SLOT {
        sql.query_optional(of_settings, &[device.into()])?
    } else {
        sql.query_optional(of_model, &[device.into(), slot.into()])?
    };
    row.map(|mut row| Ok(Intent { rollout: row.take(0)?, started_ms: row.take(1)? })).transpose()
}

/// Returns the path of settings that the owner names at present, by their digest.
///
/// *Errors*: the store's.
pub fn settings_path(sql: &mut dyn Sql, digest: &str) -> Result<Option<String>, StoreError> {
    let row = sql.query_optional(
        "SELECT path FROM settings_release WHERE digest = $1 AND removed_ms IS NULL",
        &[digest.into()],
    )?;
    row.map(|mut row| row.take(0)).transpose()
}

/// Returns how many members stand as each outcome says.
///
/// *Errors*: the store's.
pub fn outcomes(sql: &mut dyn Sql, id: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let rows = sql.query(
        "SELECT outcome, CAST(count(*) AS BIGINT) FROM rollout_member WHERE rollout = $1 GROUP BY outcome",
        &[id.into()],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

/// Returns the approval policy with its revision.
///
/// *Errors*: the store's.
pub fn approval_policy(sql: &mut dyn Sql) -> Result<(Vec<ApprovalRule>, u64), StoreError> {
    let row = sql.query_optional("SELECT rules, revision FROM approval_policy WHERE id = 1", &[])?;
    let Some(mut row) = row else { return Ok((Vec::new(), 0)) };
    let rules: String = row.take(0)?;
    let rules = serde_json::from_str(&rules)
        .map_err(|_| StoreError::Damaged("the approval policy cannot be read".to_owned()))?;
    Ok((rules, row.take(1)?))
}

/// Keeps another approval policy; returns its revision.
///
/// *Errors*: the store's.
pub fn set_approval_policy(sql: &mut dyn Sql, rules: &[ApprovalRule]) -> Result<u64, StoreError> {
    let text = serde_json::to_string(rules)
        .map_err(|_| StoreError::Damaged("the approval policy cannot be written".to_owned()))?;
    let (_, revision) = approval_policy(sql)?;
    sql.execute(
        "INSERT INTO approval_policy VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET revision = $1, rules = $2",
        &[(revision + 1).into(), text.into()],
    )?;
    Ok(revision + 1)
}
