//! Roots of the director: the owner says by them that this server may choose.
//!
//! The first is taken because the keys of the image repository's root signed it; the others follow the rules of roots.
//! Never takes one that does not name this server's key for all that it signs.

use std::sync::Arc;

use dunlin_trust::director::{DIRECTOR_ROLE, first_root};
use dunlin_trust::sign::repository::Files;
use dunlin_trust::{Code, Failure, PublicKey, Stored, TrustedSet};
use serde_json::json;

use super::upload::Uploaded;
use super::verify::split;
use super::{ImageRefusal, speaks_for, unix};
use crate::fleet::{Fleet, now_ms};
use crate::store::audit::{self, Deed};
use crate::store::{Sql, StoreError, director as directors, image};

/// The roles that the server's key must speak for.
pub(super) const ONLINE_ROLES: [&str; 4] = [DIRECTOR_ROLE, "targets", "snapshot", "timestamp"];

/// Roots with their versions.
type Roots = Vec<(u64, Vec<u8>)>;

/// Takes roots of the director by file name, as in `1.root.json`. Taken again they change nothing.
///
/// *Errors*: see [`ImageRefusal`]; nothing is kept then.
pub async fn upload_director(
    fleet: &Fleet,
    files: Files,
    who: &str,
    reason: &str,
) -> Result<Uploaded, ImageRefusal> {
    let (files, key, who, reason) =
        (Arc::new(files), fleet.key.role().public(), who.to_owned(), reason.to_owned());
    let work = move |sql: &mut dyn Sql| {
        let now_ms = now_ms();
        let new = match judge(sql, &files, &key, now_ms)? {
            Ok(new) => new,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for (version, raw) in &new {
            directors::put_root(sql, *version, raw)?;
        }
        let files: Vec<String> = new.iter().map(|(version, _)| format!("{version}.root.json")).collect();
        if !files.is_empty() {
            let deed = Deed {
                at_ms: now_ms,
                who: who.clone(),
                action: "director.root".to_owned(),
                object: "director".to_owned(),
                reason: reason.clone(),
                detail: json!({ "files": files }).to_string(),
            };
            audit::add(sql, &deed)?;
        }
        Ok(Ok(Uploaded { files, releases: Vec::new() }))
    };
    fleet.store.write(work).await?
}

/// Returns the roots that are new, in order.
fn judge(
    sql: &mut dyn Sql,
    files: &Files,
    key: &PublicKey,
    now_ms: u64,
) -> Result<Result<Roots, ImageRefusal>, StoreError> {
    let Some(image_root) = image::get(sql, "root", None)? else { return Ok(Err(ImageRefusal::NoImage)) };
    let newest = directors::newest(sql)?;
    let held = directors::root(sql, newest)?;
    let mut new = Roots::new();
    for (name, raw) in files {
        let Some((version, "root")) = split(name) else { return Ok(Err(ImageRefusal::Name(name.clone()))) };
        match directors::root(sql, version)? {
            Some(other) if other == *raw => {}
            Some(_) => return Ok(Err(ImageRefusal::Taken(name.clone()))),
            None => new.push((version, raw.clone())),
        }
    }
    new.sort_unstable_by_key(|(version, _)| *version);
    Ok(follow(&image_root, held, &new, key, now_ms).map(|()| new))
}

fn follow(
    image_root: &[u8],
    held: Option<Vec<u8>>,
    new: &Roots,
    key: &PublicKey,
    now_ms: u64,
) -> Result<(), ImageRefusal> {
    let [(first_version, first), ..] = new.as_slice() else { return Ok(()) };
    let (mut set, rest) = match held {
        Some(held) => (TrustedSet::load(&Stored::first(held))?, new.as_slice()),
        None => {
            // The keys of the day have signed the newest; those before it lead gateways to it that know an older one.
            let owner = TrustedSet::load(&Stored::first(image_root.to_vec()))?;
            if let Some((_, newest)) = new.last() {
                first_root(&owner, newest)?;
            }
            let set = TrustedSet::load(&Stored::first(first.clone()))?;
            require_version(*first_version, &set)?;
            (set, &new[1..])
        }
    };
    for (version, raw) in rest {
        set.update_root(raw)?;
        require_version(*version, &set)?;
    }
    set.require_fresh_root(unix(now_ms))?;
    match ONLINE_ROLES.into_iter().find(|role| !speaks_for(set.root(), role, key)) {
        Some(role) => Err(ImageRefusal::NotNamed { role, key: key.keyval.public.clone() }),
        None => Ok(()),
    }
}

fn require_version(named: u64, set: &TrustedSet) -> Result<(), ImageRefusal> {
    let version = set.root().version;
    if named == version {
        return Ok(());
    }
    let reason = format!("holds version {version}");
    Err(Failure::new(Code::Mismatch, format!("{named}.root.json"), reason).into())
}
