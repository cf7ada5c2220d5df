//! Ten thousand who connect and say nothing or half a line, and a process that may have few files open.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dunlin_e2e::fleet_server::ServerPlan;
use dunlin_e2e::wait::wait_until;
use dunlin_e2e::workspace::{fleet_program, skip};
use dunlin_e2e::{Failure, Outcome};
use nix::sys::resource::{Resource, getrlimit};

use super::{Asker, Seeded};
use crate::device::request;

/// Nearly as many as the server takes by default.
const CROWD: u64 = 9_900;
/// Files of a process beside those.
const BESIDE: u64 = 600;
/// Memory of a server that holds them: some kilobytes each, with what it needs alone.
const MEMORY_MAX: u64 = 256 << 20;

/// Connects, says half a line on each second connection, and holds all until it is ended.
const HOLD: &str = "import resource,socket,sys,time\n\
hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
resource.setrlimit(resource.RLIMIT_NOFILE,(hard,hard))\n\
held=[]\n\
for n in range(int(sys.argv[2])):\n\
\tc=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n\
\tif n%2: c.send(b'GET /v1/server HTTP/1.1\\r\\nhost: f')\n\
\theld.append(c)\n\
\tif n%100==0: time.sleep(0.01)\n\
print('held',flush=True)\n\
sys.stdin.read()";

/// Those who hold connections; gone when they are dropped.
struct Crowd(Child);

impl Crowd {
    fn hold(port: u16, connections: u64) -> Outcome<Self> {
        let mut python = Command::new("python3");
        python.args(["-c", HOLD, &port.to_string(), &connections.to_string()]);
        let child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut crowd = Self(child.map_err(Failure::of("start python3"))?);
        let mut line = String::new();
        BufReader::new(crowd.0.stdout.take().unwrap()).read_line(&mut line)?;
        if line.trim() == "held" { Ok(crowd) } else { Err(Failure::new("the crowd did not come")) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn ten_thousand_silent_connections_hold_up_nobody_and_take_little_memory() -> Outcome<()> {
    if getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(_, hard)| hard < CROWD + BESIDE) {
        skip("a process may not have ten thousand files open here");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?;
    let server = plan.start()?;
    let address = SocketAddr::from(([127, 0, 0, 1], plan.port));
    let mut seeded = Seeded::new(Asker::first(address, &plan.data)?)?;
    let crowd = Crowd::hold(plan.port, CROWD)?;
    seeded.admin.get("/v1/server")?;
    assert_eq!(seeded.sites[0].device.exchange(Vec::new())?.refusal, None);
    let bytes = server.resident_bytes()?;
    assert!(bytes < MEMORY_MAX, "{bytes} bytes of memory");
    drop(crowd);
    assert_eq!(request(address, "GET", "/healthz", "", b"")?.status, 200);
    Ok(())
}

#[test]
fn a_process_that_may_have_few_files_open_says_so_and_keeps_some_for_its_database() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let plan = ServerPlan::new(folder.path())?;
    let log = std::fs::File::create(&plan.log)?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 300 && exec \"$0\" serve --data \"$1\" --listen \"127.0.0.1:$2\""]);
    shell.arg(fleet_program()?).arg(&plan.data).arg(plan.port.to_string()).stderr(log);
    let server = Crowd(shell.spawn()?);
    let address = SocketAddr::from(([127, 0, 0, 1], plan.port));
    wait_until("the server answers", Duration::from_secs(60), || {
        request(address, "GET", "/healthz", "", b"").is_ok_and(|reply| reply.status == 200)
    })?;
    assert!(plan.log().contains("LimitNOFILE"), "{}", plan.log());
    // Most of the places that are left.
    let crowd = Crowd::hold(plan.port, 30)?;
    let mut seeded = Seeded::new(Asker::first(address, &plan.data)?)?;
    assert_eq!(seeded.sites[1].device.exchange(Vec::new())?.refusal, None);
    drop((crowd, server));
    Ok(())
}
