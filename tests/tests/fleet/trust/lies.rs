//! A server that holds the online key and lies: each lie is refused by its name, and what was trusted stays.
//!
//! The gateway is the verifier over real sockets; the daemon is held to the same lies elsewhere.

use std::net::SocketAddr;

use dunlin_e2e::fleet_owner::{ApprovedRelease, FleetOwner};
use dunlin_e2e::gateway_trust::{GatewayTrust, Told};
use dunlin_e2e::lying_server::{Lie, LyingServer};
use dunlin_e2e::{Failure, Outcome};
use dunlin_protocol::{Digest, ExchangeAnswer};

use super::{now, source};
use crate::device::Device;

/// A lying server, its owner, and a gateway that was told two releases truly.
struct Lair {
    server: LyingServer,
    owner: FleetOwner,
    releases: Vec<ApprovedRelease>,
    device: Device,
    trust: GatewayTrust,
    _folder: tempfile::TempDir,
}

impl Lair {
    fn new() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let server = LyingServer::start()?;
        let mut owner = FleetOwner::of(&server.online())?;
        owner.renew_director(&server.online());
        let mut releases = vec![owner.approve(folder.path(), "frost", 1, &[])?];
        server.serve(&owner)?;
        let key = dunlin_protocol::PublicKey::from_bytes(&bytes_of(&server.online().keyval.public)).unwrap();
        let root = Digest::of(owner.first_root());
        let mut device = Device::new(1, server.address(), key, server.id(), root);
        device.enrol(None)?;
        let address = server.address();
        let mut trust = GatewayTrust::new(&device.id().to_string(), owner.first_root()).unwrap();
        trust.refresh(now(), &mut source(address)).map_err(Failure::of("refresh"))?;
        trust.take_director(&mut source(address)).map_err(Failure::of("take the director"))?;
        releases.push(owner.approve(folder.path(), "frost", 2, &[])?);
        server.serve(&owner)?;
        server.tell(&releases[1..]);
        let mut lair = Self { server, owner, releases, device, trust, _folder: folder };
        let told = lair.told()?.unwrap().map_err(Failure::of("take the truth"))?;
        assert_eq!(told.assignments.len(), 1);
        lair.trust.floor = 2;
        Ok(lair)
    }

    /// Asks once; nothing where the answer is none.
    fn told(&mut self) -> Outcome<Option<Result<Told, dunlin_trust::Failure>>> {
        let mut question = self.device.question(Vec::new());
        question.held = self.trust.held();
        let reply = self.device.send(&question, 0)?;
        let Ok(answer) = self.device.read::<ExchangeAnswer>(&reply) else { return Ok(None) };
        if answer.require_answer_to(&question).is_err() {
            return Ok(None);
        }
        let Some(desired) = answer.desired else { return Ok(None) };
        let (address, nonce) = (self.server.address(), question.nonce.to_string());
        Ok(Some(self.trust.take(&desired, &nonce, now(), &mut reading(address))))
    }
}

/// Fetches files over HTTP, and no more of each than is asked for.
fn reading(server: SocketAddr) -> impl FnMut(&str, u64) -> Option<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    move |path, bytes_max| {
        let mut stream = std::net::TcpStream::connect(server).ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: fleet\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut reply = Vec::new();
        // A head has some hundred bytes.
        stream.take(bytes_max + 4_096).read_to_end(&mut reply).ok()?;
        let end = reply.windows(4).position(|four| four == b"\r\n\r\n")?;
        let mut body = reply.split_off(end + 4);
        body.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        reply.starts_with(b"HTTP/1.1 200").then_some(body)
    }
}

#[test]
fn every_lie_is_refused_by_its_name_and_the_truth_after_it_is_taken() -> Outcome<()> {
    for lie in Lie::ALL {
        // The speed of a transfer is the client's to judge; see the daemon's tests.
        if lie == Lie::SlowBlobs {
            continue;
        }
        let mut lair = Lair::new()?;
        let (held, trusted) = (lair.trust.held(), lair.trust.image.stored());
        if lie == Lie::OlderRelease {
            lair.server.tell(&lair.releases[..1]);
        }
        lair.server.lie(Some(lie));
        let outcome = lair.told()?;
        let code = match outcome {
            None => None,
            Some(Err(failure)) => Some(failure.code.as_str()),
            Some(Ok(told)) => fetched(&lair, &told),
        };
        assert_eq!(code, lie.code(), "{lie:?}");
        // A statement that was refused is not held; a file of the image repository never takes the place of a good one.
        if !matches!(lie, Lie::ChangedBlobs | Lie::EndlessBlobs) {
            assert_eq!(lair.trust.held().desired_revision, held.desired_revision, "{lie:?}");
        }
        assert_eq!(lair.trust.image.stored().targets, trusted.targets, "{lie:?}");
        assert_eq!(lair.trust.image.stored().root, trusted.root, "{lie:?}");
        // The thief is gone.
        lair.server.lie(None);
        lair.server.tell(&lair.releases[1..]);
        lair.server.serve(&lair.owner)?;
        if lie == Lie::OlderStatement {
            assert_eq!(lair.trust.held().director_version, held.director_version);
        }
        recover(&mut lair, lie)?;
    }
    Ok(())
}

/// Returns the code by which the manifest is refused.
fn fetched(lair: &Lair, told: &Told) -> Option<&'static str> {
    let [assignment] = told.assignments.as_slice() else { return None };
    let fetched = lair.trust.fetch(assignment, &mut reading(lair.server.address()));
    fetched.err().map(|failure| failure.code.as_str())
}

/// The owner's next change brings everything back into order, whatever the thief ran up.
fn recover(lair: &mut Lair, lie: Lie) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    for release in 3..=4 {
        lair.releases.push(lair.owner.approve(folder.path(), "frost", release, &[])?);
        lair.server.serve(&lair.owner)?;
    }
    lair.server.tell(&lair.releases[3..]);
    let told = lair.told()?.ok_or_else(|| Failure::new(format!("{lie:?}: no answer")))?;
    let told = told.map_err(Failure::of(format!("{lie:?}: the truth")))?;
    assert_eq!(told.assignments.len(), 1, "{lie:?}");
    assert_eq!(fetched(lair, &told), None, "{lie:?}");
    Ok(())
}

fn bytes_of(hex: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    }
    bytes
}
