//! Files that gateways fetch by plain GET: metadata, and blobs with ranges.
//!
//! Nothing here knows who asks: all of it is signed or named by its hash. Never serves a path that it was not given.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_protocol::Digest;

use super::Rejection;
use crate::blobs::Reading;
use crate::fleet::Fleet;
use crate::store::{director, image};

/// What is named by its version or hash stays as it is.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// What is not has to be asked for each time.
const ASK_AGAIN: &str = "no-cache";

/// What a path names, where it can be read.
type Named<T> = Result<Path<T>, PathRejection>;

fn missing() -> Rejection {
    Rejection::http(StatusCode::NOT_FOUND, "not_found", "there is no such file")
}

fn metadata(raw: Vec<u8>, kept: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, kept)], raw).into_response()
}

/// GET of a file of the image repository.
pub(super) async fn image_file(
    State(fleet): State<Arc<Fleet>>,
    path: Named<String>,
) -> Result<Response, Rejection> {
    let Path(file) = path.map_err(|_| missing())?;
    image_response(&fleet, &file).await
}

/// Answers with a file of the image repository.
pub(crate) async fn image_response(fleet: &Fleet, file: &str) -> Result<Response, Rejection> {
    let name = file.strip_suffix(".json").filter(|name| !name.contains('\0')).ok_or_else(missing)?;
    let (role, version) = match name.split_once('.') {
        Some((version, role)) => (role, Some(version.parse::<u64>().map_err(|_| missing())?)),
        // The one file that keeps its name when it changes.
        None if name == "timestamp" => (name, None),
        None => return Err(missing()),
    };
    let role = role.to_owned();
    let raw = fleet.store.read(move |sql| image::get(sql, &role, version)).await?;
    Ok(metadata(raw.ok_or_else(missing)?, if version.is_some() { FOR_EVER } else { ASK_AGAIN }))
}

/// GET of a root of the director.
pub(super) async fn director_file(
    State(fleet): State<Arc<Fleet>>,
    path: Named<String>,
) -> Result<Response, Rejection> {
    let Path(file) = path.map_err(|_| missing())?;
    let version = file.strip_suffix(".root.json").and_then(|version| version.parse::<u64>().ok());
    let version = version.filter(|version| format!("{version}.root.json") == file).ok_or_else(missing)?;
    let raw = fleet.store.read(move |sql| director::root(sql, version)).await?;
    Ok(metadata(raw.ok_or_else(missing)?, FOR_EVER))
}

/// GET of a blob, or of a part of it.
pub(super) async fn blob(
    State(fleet): State<Arc<Fleet>>,
    path: Named<String>,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let Path(sha256) = path.map_err(|_| missing())?;
    respond(&fleet, digest(&sha256)?, &headers).await
}

/// Reads a digest in its one spelling.
fn digest(text: &str) -> Result<Digest, Rejection> {
    text.parse().ok().filter(|digest: &Digest| digest.to_string() == text).ok_or_else(missing)
}

/// GET of what makes one blob of another.
pub(super) async fn delta(
    State(fleet): State<Arc<Fleet>>,
    path: Named<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let Path((sha256, base)) = path.map_err(|_| missing())?;
    let (sha256, base) = (digest(&sha256)?, digest(&base)?);
    let patch = fleet.blobs.patch(&fleet.store, sha256, base).await?;
    respond(&fleet, patch.ok_or_else(missing)?.sha256, &headers).await
}

/// Answers with a blob as RFC 9110 has it: one range at most, conditions by its tag.
async fn respond(fleet: &Fleet, sha256: Digest, headers: &HeaderMap) -> Result<Response, Rejection> {
    let bytes = fleet.blobs.bytes(&sha256).await?.ok_or_else(missing)?;
    let tag = format!("\"{sha256}\"");
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| names_tag(tags, &tag)) {
        return Ok(dressed(StatusCode::NOT_MODIFIED.into_response(), &tag));
    }
    // A part of another blob would be of no use: all of this one comes instead.
    let is_same = text(header::IF_RANGE).is_none_or(|condition| condition.trim() == tag);
    let wanted = text(header::RANGE).filter(|_| is_same).map_or(Wanted::All, |range| wanted(range, bytes));
    let range = match wanted {
        Wanted::All => None,
        Wanted::Part(range) => Some(range),
        Wanted::Nothing => {
            let mut response = Rejection::http(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range",
                "the range lies beyond the end of the blob",
            )
            .into_response();
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{bytes}"));
            return Ok(response);
        }
    };
    let reading = fleet.blobs.stream(&sha256, range.clone()).await?;
    let Reading { range: got, body, .. } = reading.ok_or_else(missing)?;
    let mut response = Response::new(Body::empty());
    *response.body_mut() = body;
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = got.end.saturating_sub(1);
        set(&mut response, header::CONTENT_RANGE, &format!("bytes {}-{last}/{bytes}", got.start));
    }
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    set(&mut response, header::CONTENT_LENGTH, &(got.end - got.start).to_string());
    Ok(dressed(response, &tag))
}

fn dressed(mut response: Response, tag: &str) -> Response {
    set(&mut response, header::ETAG, tag);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CACHE_CONTROL, FOR_EVER);
    response
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn names_tag(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|other| other == "*" || other.trim_start_matches("W/") == tag)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    Nothing,
}

/// Reads a range. One that is none, or several, is passed over, as RFC 9110 allows.
fn wanted(text: &str, bytes: u64) -> Wanted {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim().is_empty(), last.trim().is_empty()) {
        // The last so many bytes.
        (true, false) => match number(last) {
            Some(0) => Wanted::Nothing,
            Some(_) if bytes == 0 => Wanted::Nothing,
            Some(count) => Wanted::Part(bytes.saturating_sub(count)..bytes),
            None => Wanted::All,
        },
        (false, is_open) => match (number(first), number(last)) {
            (Some(first), None) if is_open => part(first, bytes, bytes),
            (Some(first), Some(last)) if first <= last => part(first, last.saturating_add(1), bytes),
            _ => Wanted::All,
        },
        (true, true) => Wanted::All,
    }
}

fn part(first: u64, end: u64, bytes: u64) -> Wanted {
    if first < bytes { Wanted::Part(first..end.min(bytes)) } else { Wanted::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-5", Wanted::Part(2..6)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=9-99", Wanted::Part(9..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-2", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=x-2", Wanted::All),
            ("bytes=2-x", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=0-18446744073709551615", Wanted::Part(0..10)),
        ] {
            assert_eq!(wanted(text, 10), expected, "{text}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(wanted("bytes=-1", 0), Wanted::Nothing);
    }
}
