//! The REST interface, asked: one request, one answer, and a refusal in the server's own words.
//!
//! A redirect is not followed: the token would go to somebody else. Answers are bounded.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use dunlin_fleet_api::page::Page;
use dunlin_protocol::routes::ENVELOPE_MEDIA_TYPE;
use dunlin_protocol::{Problem, RefusalCode};
use reqwest::blocking::{Client as Http, RequestBuilder, Response};
use reqwest::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::command::CommandError;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for a whole answer; an upload of a model over a slow line takes minutes.
const ANSWER: Duration = Duration::from_secs(600);
/// Longest answer: a page of 1,000 gateways with their models.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Entries of a page.
const PAGE: u32 = 500;

/// A server and the token that it is asked with.
pub struct Client {
    http: Http,
    url: String,
    token: Zeroizing<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    /// Returns the client of a server.
    ///
    /// *Errors*: the URL is none, or a certificate cannot be read.
    pub fn new(url: &str, token: Zeroizing<String>, ca_file: Option<&Path>) -> Result<Self, CommandError> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(CommandError::Usage(format!("`{url}` is no URL such as https://fleet.example")));
        }
        // Another part of the program may have chosen it before: the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut http = Http::builder().connect_timeout(CONNECT).timeout(ANSWER).redirect(Policy::none());
        if let Some(file) = ca_file {
            let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
                CommandError::failed(format!("cannot read certificates from `{}`", file.display()), e)
            };
            let pem = std::fs::read(file).map_err(|e| failed(e.into()))?;
            for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(e.into()))? {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http.build().map_err(|e| CommandError::failed("cannot set up HTTP", e))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Returns the server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Asks for an object.
    ///
    /// *Errors*: the server refuses, cannot be reached, or answers something else.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        read(self.ask(Method::GET, path)?)
    }

    /// Asks for an object and its revision, for [`Client::send`].
    ///
    /// *Errors*: as [`Client::get`].
    pub fn get_with_tag<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Option<String>), CommandError> {
        let response = self.ask(Method::GET, path)?;
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok((read(response)?, tag))
    }

    /// Returns all entries of a list, at most `limit`.
    ///
    /// *Errors*: as [`Client::get`].
    pub fn list<T: DeserializeOwned>(&self, path: &str, limit: usize) -> Result<Vec<T>, CommandError> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        let separator = if path.contains('?') { '&' } else { '?' };
        while items.len() < limit {
            let page: Page<T> = self.get(&format!("{path}{separator}limit={PAGE}{cursor}"))?;
            items.extend(page.items);
            let Some(next) = page.next else { break };
            cursor = format!("&cursor={next}");
        }
        items.truncate(limit);
        Ok(items)
    }

    /// Sends an object; with `if_match` only where that is still the present revision.
    ///
    /// *Errors*: as [`Client::get`].
    pub fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        if_match: Option<&str>,
    ) -> Result<T, CommandError> {
        let mut request = self.request(method, path).json(body);
        if let Some(tag) = if_match {
            request = request.header(IF_MATCH, tag);
        }
        read(self.answer(request)?)
    }

    /// Sends an order.
    ///
    /// *Errors*: as [`Client::get`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CommandError> {
        self.send(Method::POST, path, body, None)
    }

    /// Tells whether something is there.
    ///
    /// *Errors*: as [`Client::get`], but for what is not there.
    pub fn has(&self, path: &str) -> Result<bool, CommandError> {
        let response = self.request(Method::HEAD, path).send().map_err(|e| self.unreachable(e))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(CommandError::failed(format!("`{}` answers {status}", self.url), path.to_owned())),
        }
    }

    /// Writes bytes.
    ///
    /// *Errors*: as [`Client::get`].
    pub fn put_bytes(&self, path: &str, bytes: Vec<u8>) -> Result<(), CommandError> {
        let request = self.request(Method::PUT, path).header("content-type", "application/octet-stream");
        self.answer(request.body(bytes)).map(drop)
    }

    /// Fetches bytes into a file, at most so many. The token stays here: what gateways fetch asks for none.
    ///
    /// *Errors*: as [`Client::get`]; there is more, or the file cannot be written.
    pub fn fetch(&self, path: &str, to: &Path, bytes_max: u64) -> Result<(), CommandError> {
        let response = self.answer(self.http.get(format!("{}{path}", self.url)))?;
        let mut file = std::fs::File::create(to)
            .map_err(|e| CommandError::failed(format!("cannot write `{}`", to.display()), e))?;
        let copied = std::io::copy(&mut response.take(bytes_max.saturating_add(1)), &mut file)
            .map_err(|e| CommandError::failed("the server's answer broke off", e))?;
        match copied > bytes_max {
            true => Err(CommandError::CheckFailed(format!("`{path}` has more than {bytes_max} bytes"))),
            false => Ok(()),
        }
    }

    /// Returns what gateways fetch from a path; nothing where it is not there.
    ///
    /// *Errors*: as [`Client::get`].
    pub fn fetched(&self, path: &str) -> Result<Option<Vec<u8>>, CommandError> {
        match self.answer(self.http.get(format!("{}{path}", self.url))) {
            Ok(response) => bytes(response).map(Some),
            Err(CommandError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings a gateway's envelope, whose signature says who speaks: no token goes along. Returns the server's envelope,
    /// which may hold a refusal.
    ///
    /// *Errors*: a refusal that is not signed; the server cannot be reached.
    pub fn bring_envelope(&self, path: &str, envelope: Vec<u8>) -> Result<Vec<u8>, CommandError> {
        let request = self.http.post(format!("{}{path}", self.url)).body(envelope);
        let request = request.header(CONTENT_TYPE, ENVELOPE_MEDIA_TYPE);
        let response = request.send().map_err(|e| self.unreachable(e))?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with(ENVELOPE_MEDIA_TYPE)) {
            return bytes(response);
        }
        let body = bytes(response)?;
        let Some(problem) = Problem::parse(&body) else {
            let message = format!("`{}` answers as no fleet server does; is the URL right?", self.url);
            return Err(CommandError::Failed { message, source: None });
        };
        let message = format!("the server says: {}", problem.detail);
        Err(match problem.code {
            RefusalCode::UnknownDevice => CommandError::NotFound(message),
            RefusalCode::TooMany | RefusalCode::Unavailable => CommandError::Failed { message, source: None },
            _ => CommandError::CheckFailed(message),
        })
    }

    fn ask(&self, method: Method, path: &str) -> Result<Response, CommandError> {
        self.answer(self.request(method, path))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(self.token.as_str())
    }

    fn answer(&self, request: RequestBuilder) -> Result<Response, CommandError> {
        let response = request.send().map_err(|e| self.unreachable(e))?;
        self.judge(response)
    }

    fn judge(&self, response: Response) -> Result<Response, CommandError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Option<Value> = bytes(response).ok().and_then(|raw| serde_json::from_slice(&raw).ok());
        let text = |name: &str| problem.as_ref().and_then(|problem| problem[name].as_str());
        let (code, detail) = (text("code"), text("detail"));
        let Some(detail) = detail.filter(|_| code.is_some()) else {
            let message =
                format!("`{}` answers {status}, and not as a fleet server does; is the URL right?", self.url);
            return Err(CommandError::Failed { message, source: None });
        };
        let message = format!("the server says: {detail}");
        Err(match status {
            StatusCode::NOT_FOUND => CommandError::NotFound(message),
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => CommandError::Conflict(message),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => CommandError::CheckFailed(message),
            _ => CommandError::Failed { message, source: None },
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> CommandError {
        CommandError::failed(format!("cannot reach the fleet server `{}`", self.url), error.without_url())
    }
}

fn bytes(response: Response) -> Result<Vec<u8>, CommandError> {
    let mut raw = Vec::new();
    response
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut raw)
        .map_err(|e| CommandError::failed("the server's answer broke off", e))?;
    Ok(raw)
}

fn read<T: DeserializeOwned>(response: Response) -> Result<T, CommandError> {
    let raw = bytes(response)?;
    let raw = if raw.is_empty() { b"null".as_slice() } else { raw.as_slice() };
    serde_json::from_slice(raw)
        .map_err(|e| CommandError::failed("the server's answer cannot be read; is this `dunlin` too old?", e))
}

/// Returns a text as it stands in a query.
#[must_use]
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
