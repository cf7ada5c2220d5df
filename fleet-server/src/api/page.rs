//! Pages of lists: where one begins and how long it is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dunlin_fleet_api::page::{LIMIT, LIMIT_MAX, Page};

use super::Declined;
use crate::store::StoreError;

/// A page that is asked for: after which key, how many entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) after: String,
    pub(super) limit: u32,
}

/// Reads the parameters of a page.
pub(super) fn wanted(limit: Option<u32>, cursor: Option<&str>) -> Result<Wanted, Declined> {
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Declined::malformed(format!("`limit` is 1 to {LIMIT_MAX}")));
    }
    let wrong =
        || Declined::malformed("`cursor` is none: take `next` of the page before as it is".to_owned());
    let after = match cursor {
        None => String::new(),
        Some(cursor) => {
            let raw = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
            let text = String::from_utf8(raw).map_err(|_| wrong())?;
            // A database would refuse it, and no key holds one.
            if text.chars().any(char::is_control) {
                return Err(wrong());
            }
            text
        }
    };
    Ok(Wanted { after, limit })
}

/// Reads on until there are as many entries as the page has, and one more, of those that there are for the caller.
pub(super) fn visible<F>(
    wanted: &Wanted,
    key: impl Fn(&F) -> String,
    is_there: impl Fn(&F) -> bool,
    mut read: impl FnMut(&str, u32) -> Result<Vec<F>, StoreError>,
) -> Result<Vec<F>, StoreError> {
    let (mut found, mut after) = (Vec::new(), wanted.after.clone());
    loop {
        let some = read(&after, wanted.limit + 1)?;
        let is_last = some.len() <= wanted.limit as usize;
        if let Some(last) = some.last() {
            after = key(last);
        }
        found.extend(some.into_iter().filter(&is_there));
        if is_last || found.len() > wanted.limit as usize {
            return Ok(found);
        }
    }
}

/// Makes a page of what was found, of which there may be one entry more than the page has.
pub(super) fn page<F, T>(
    mut found: Vec<F>,
    limit: u32,
    key: impl Fn(&F) -> String,
    entry: impl Fn(F) -> T,
) -> Page<T> {
    let is_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| is_more).map(|last| URL_SAFE_NO_PAD.encode(key(last)));
    Page { items: found.into_iter().map(entry).collect(), next }
}
