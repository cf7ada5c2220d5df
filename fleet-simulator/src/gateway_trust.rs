//! What a gateway believes of a server's answers, step by step as the protocol's page has it.
//!
//! Written with the verifier alone; the files come through a function, over whatever line. Keeps what it trusts as a
//! gateway would, so that the next answer is judged by it.

use dunlin_protocol::Digest;
use dunlin_protocol::exchange::{Desired, Held};
use dunlin_trust::director::{WithdrawalNote, first_root};
use dunlin_trust::lookup::ApprovedTarget;
use dunlin_trust::refresh::Refresh;
use dunlin_trust::steps::{Answer, Fetch, Interrupted, Steps, run};
use dunlin_trust::time::UnixTime;
use dunlin_trust::{
    Assignment, Code, Device, Failure, Lookup, Statement, Stored, TargetReader, TrustedSet, Verified,
};

/// Fetches a file by its path below the server's URL, and at most so many bytes.
pub type Source<'s> = &'s mut dyn FnMut(&str, u64) -> Option<Vec<u8>>;

/// A gateway's trust.
#[derive(Debug, Clone)]
pub struct GatewayTrust {
    /// What it is.
    pub device: Device,
    /// The image repository.
    pub image: TrustedSet,
    /// The director's, once it has one.
    pub director: Option<TrustedSet>,
    /// The lowest release counter that it takes.
    pub floor: u64,
    revision: u64,
}

/// What a gateway is told, and believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What to run.
    pub assignments: Vec<Assignment>,
    /// Files of settings to take: path and digest.
    pub settings: Vec<(String, Digest)>,
    /// What to leave.
    pub withdrawn: Vec<WithdrawalNote>,
}

impl GatewayTrust {
    /// Returns the trust of a gateway that was given a root.
    ///
    /// *Errors*: it is no root.
    pub fn new(id: &str, root: &[u8]) -> Result<Self, Failure> {
        let device =
            Device { id: id.to_owned(), architecture: "aarch64".to_owned(), engine: "tract-0.23".to_owned() };
        let image = TrustedSet::load(&Stored::first(root.to_vec()))?;
        Ok(Self { device, image, director: None, floor: 0, revision: 0 })
    }

    /// Returns what it says that it holds.
    #[must_use]
    pub fn held(&self) -> Held {
        let of_director = |version: fn(&TrustedSet) -> u64| self.director.as_ref().map_or(0, version);
        Held {
            root: self.image.root().version,
            timestamp: self.image.floors().timestamp,
            snapshot: self.image.floors().snapshot,
            targets: self.image.targets().map_or(0, |targets| targets.version),
            director_root: of_director(|set| set.root().version),
            director_version: of_director(|set| set.targets().map_or(0, |targets| targets.version)),
            desired_revision: self.revision,
            settings_revision: 0,
        }
    }

    /// Refreshes the image repository.
    ///
    /// *Errors*: the refusal; what was accepted before stays.
    pub fn refresh(&mut self, now: UnixTime, source: Source<'_>) -> Result<(), Failure> {
        let mut refresh = Refresh::new(self.image.clone(), now);
        let outcome = walk(&mut refresh, "/device/v1/image/", source);
        self.image = refresh.finish().set;
        outcome
    }

    /// Takes the newest root of the director.
    ///
    /// *Errors*: the refusal.
    pub fn take_director(&mut self, source: Source<'_>) -> Result<(), Failure> {
        let mut newest = None;
        for version in 1.. {
            match source(&format!("/device/v1/director/{version}.root.json"), 1 << 20) {
                Some(raw) => newest = Some(raw),
                None => break,
            }
        }
        let raw = newest.ok_or_else(|| Failure::new(Code::Mismatch, "director/root.json", "is not there"))?;
        self.director = Some(TrustedSet::load(&*first_root(&self.image, &raw)?)?);
        Ok(())
    }

    /// Takes a statement that came with the answer to the question with this nonce.
    ///
    /// *Errors*: the first refusal; what was accepted before stays.
    pub fn take(
        &mut self,
        desired: &Desired,
        nonce: &str,
        now: UnixTime,
        source: Source<'_>,
    ) -> Result<Told, Failure> {
        let none = || Failure::new(Code::Mismatch, "director/root.json", "is not there");
        let director = self.director.clone().ok_or_else(none)?;
        let mut refresh = Refresh::new(director, now);
        let mut roots = desired.director.roots.iter();
        let mut files = |fetch: &str, _: u64| {
            let name = fetch.trim_start_matches('/');
            match name {
                _ if name.ends_with("root.json") => roots.next().map(|root| root.as_bytes().to_vec()),
                "timestamp.json" => Some(desired.director.timestamp.as_bytes().to_vec()),
                _ if name.ends_with("snapshot.json") => Some(desired.director.snapshot.as_bytes().to_vec()),
                _ => Some(desired.director.targets.as_bytes().to_vec()),
            }
        };
        let outcome = walk(&mut refresh, "", &mut files);
        self.director = Some(refresh.finish().set);
        outcome?;
        let director = self.director.as_ref().ok_or_else(none)?;
        let statement = Statement::read(director, &self.device, nonce, now)?;
        let told = self.approved(&statement, now, source)?;
        self.revision = desired.revision;
        Ok(told)
    }

    fn approved(
        &mut self,
        statement: &Verified<Statement>,
        now: UnixTime,
        source: Source<'_>,
    ) -> Result<Told, Failure> {
        let mut told =
            Told { assignments: Vec::new(), settings: Vec::new(), withdrawn: statement.withdrawn.clone() };
        self.refresh(now, source)?;
        for (path, (description, _)) in &statement.targets {
            let target = self.look_up(path, now, source)?;
            if path.starts_with("settings/") {
                if description.hashes != target.description.hashes
                    || description.length != target.description.length
                {
                    return Err(Failure::new(Code::NotApproved, path.as_str(), "is another file"));
                }
                let digest = target.description.hashes.get("sha256").and_then(|hash| hash.parse().ok());
                told.settings.extend(digest.map(|digest| (path.clone(), digest)));
                continue;
            }
            let assignment = Assignment::check(statement, &target, &self.device, self.floor)?;
            told.assignments.push(Assignment::clone(&assignment));
        }
        Ok(told)
    }

    fn look_up(
        &mut self,
        path: &str,
        now: UnixTime,
        source: Source<'_>,
    ) -> Result<Verified<ApprovedTarget>, Failure> {
        let mut lookup = Lookup::new(&mut self.image, path, now)?;
        walk(&mut lookup, "/device/v1/image/", source)?;
        lookup.finish()
    }

    /// Fetches an approved target by its hash and checks it.
    ///
    /// *Errors*: the refusal.
    pub fn fetch(&self, assignment: &Assignment, source: Source<'_>) -> Result<Vec<u8>, Failure> {
        let description = &assignment.target.description;
        let missing = || Failure::new(Code::Mismatch, assignment.target.path.as_str(), "is not there");
        let sha256 = description.hashes.get("sha256").ok_or_else(missing)?;
        let raw =
            source(&format!("/device/v1/blobs/{sha256}"), description.length + 1).ok_or_else(missing)?;
        let mut reader = TargetReader::new(description, None, &assignment.target.path)?;
        reader.update(&raw)?;
        reader.finish()?;
        Ok(raw)
    }
}

fn walk(steps: &mut impl Steps, folder: &str, source: Source<'_>) -> Result<(), Failure> {
    let answer = |fetch: &Fetch| {
        let found = source(&format!("{folder}{}", fetch.path), fetch.length_max + 1);
        Ok::<_, std::convert::Infallible>(found.map_or(Answer::NotFound, Answer::Found))
    };
    run(steps, answer).map_err(|interrupted| match interrupted {
        Interrupted::Refused(failure) => failure,
        Interrupted::Source(never) => match never {},
    })
}
