//! What a worker denies itself: memory, files, processes, sockets.
//!
//! Only takes away, and only from the calling process; never loads or runs a model. The limits stand before the
//! model is read, the system call filter after it is loaded, so that a model's data never meets an open door.

use std::collections::BTreeMap;
use std::fmt;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Open files of a worker: socket, stdin, stdout, stderr, the model file and what the C library reads at start.
const FILES_MAX: u64 = 16;

/// A step of the confinement that the kernel refused.
#[derive(Debug)]
pub struct ConfineError {
    step: &'static str,
    reason: String,
}

impl fmt::Display for ConfineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "worker cannot confine itself: `{}` failed: {}; use isolation = \"thread\" on this kernel",
            self.step, self.reason
        )
    }
}

impl std::error::Error for ConfineError {}

fn failed<E: fmt::Display>(step: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |reason| ConfineError { step, reason: reason.to_string() }
}

/// Binds the process to its parent's life and takes privileges, core dumps, new files and processes away.
///
/// *Errors*: the step that the kernel refused; the worker is to end.
pub fn confine_process() -> Result<(), ConfineError> {
    // The signal comes when the *thread* that started the worker ends: the daemon starts workers from its main
    // thread alone. Should the parent be gone already, the closed socket ends the worker.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("PR_SET_PDEATHSIG"))?;
    // A stop of the whole service, or Ctrl-C, reaches workers too: they end when the daemon has drained, not before.
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect::<SigSet>()
        .thread_block()
        .map_err(failed("sigprocmask"))?;
    offer_to_memory_killer();
    prctl::set_no_new_privs().map_err(failed("PR_SET_NO_NEW_PRIVS"))?;
    prctl::set_dumpable(false).map_err(failed("PR_SET_DUMPABLE"))?;
    limit(Resource::RLIMIT_CORE, 0, "RLIMIT_CORE")?;
    limit(Resource::RLIMIT_NOFILE, FILES_MAX, "RLIMIT_NOFILE")?;
    // Does not bind root; the system call filter denies clone and fork to everyone.
    limit(Resource::RLIMIT_NPROC, 0, "RLIMIT_NPROC")
}

/// Makes the worker the kernel's first choice where memory runs out, rather than the daemon. Best effort: to be done
/// before the process is undumpable, which takes its own `/proc` files away from it.
fn offer_to_memory_killer() {
    let file = std::fs::File::options().write(true).open("/proc/self/oom_score_adj");
    let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, b"500"));
}

/// Allows `bytes` of address space beyond what the process has mapped so far.
///
/// *Errors*: the kernel refused the limit, or `/proc` is not there.
pub fn limit_memory(bytes: u64) -> Result<(), ConfineError> {
    let mapped = mapped_bytes().ok_or("`/proc/self/statm` is not readable").map_err(failed("RLIMIT_AS"))?;
    limit(Resource::RLIMIT_AS, mapped.saturating_add(bytes), "RLIMIT_AS")
}

fn limit(resource: Resource, value: u64, step: &'static str) -> Result<(), ConfineError> {
    setrlimit(resource, value as libc::rlim_t, value as libc::rlim_t).map_err(failed(step))
}

fn mapped_bytes() -> Option<u64> {
    statm_pages("self", 0)
}

/// Returns the resident bytes of a process, or `None` where it has ended.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    statm_pages(&pid.to_string(), 1)
}

/// Memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerMemory {
    /// Resident bytes.
    pub resident_bytes: u64,
    /// Their highest.
    pub resident_bytes_max: u64,
    /// Of the resident bytes: those that no file holds, which are the process's alone.
    pub own_bytes: u64,
}

/// Returns the memory of a process, or `None` where it has ended.
#[must_use]
pub fn worker_memory(pid: u32) -> Option<WorkerMemory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
    };
    Some(WorkerMemory {
        resident_bytes: bytes("VmRSS:")?,
        resident_bytes_max: bytes("VmHWM:")?,
        own_bytes: bytes("RssAnon:")?,
    })
}

fn statm_pages(process: &str, column: usize) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(column)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// System calls of a loaded worker: its open socket, memory, the lock and clock calls of the standard library, its
/// end. Nothing that opens, connects, starts or signals anything else.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Makes the filter of system calls; anything else returns `EPERM`.
///
/// *Errors*: the processor has no filter here.
pub fn system_call_filter() -> Result<BpfProgram, ConfineError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // Memory that is executable could hold a system call of the model's own making.
    let not_executable =
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)
            .map_err(failed("seccomp"))?;
    // `abort` signals its own process; no other may be.
    let own_process =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(std::process::id()))
            .map_err(failed("seccomp"))?;
    for (call, condition) in [
        (libc::SYS_mmap, &not_executable),
        (libc::SYS_mprotect, &not_executable),
        (libc::SYS_tgkill, &own_process),
    ] {
        rules.insert(call, vec![SeccompRule::new(vec![condition.clone()]).map_err(failed("seccomp"))?]);
    }
    let arch = std::env::consts::ARCH.try_into().map_err(failed("seccomp"))?;
    SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)
        .and_then(TryInto::try_into)
        .map_err(failed("seccomp"))
}

/// Puts the calling thread, a worker's only one, under the filter, for good.
///
/// *Errors*: the kernel refused; the worker is to end.
pub fn filter_system_calls() -> Result<(), ConfineError> {
    seccompiler::apply_filter(&system_call_filter()?).map_err(failed("seccomp"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_filtered_thread_can_compute_and_nothing_else() {
        // The filter binds this thread alone and ends with it.
        let thread = std::thread::spawn(|| {
            filter_system_calls().unwrap();
            let sum: u64 = vec![1_u64; 1 << 20].iter().sum();
            let denied =
                |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::PermissionDenied;
            [
                sum == 1 << 20,
                denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
                denied(std::net::UdpSocket::bind("127.0.0.1:0").map(drop)),
                denied(std::os::unix::net::UnixStream::pair().map(drop)),
                denied(std::fs::File::open("/etc/hostname").map(drop)),
                denied(std::fs::File::create("/tmp/x").map(drop)),
                denied(std::process::Command::new("/bin/true").status().map(drop)),
                denied(nix::sys::signal::kill(nix::unistd::getppid(), None).map_err(io::Error::from)),
                denied(setrlimit(Resource::RLIMIT_CORE, 1, 1).map_err(io::Error::from)),
            ]
        });
        assert_eq!(thread.join().unwrap(), [true; 9]);
    }

    #[test]
    fn resident_bytes_are_those_of_a_living_process() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(resident_bytes(u32::MAX), None);
        let memory = worker_memory(std::process::id()).unwrap();
        assert!(
            memory.own_bytes < memory.resident_bytes && memory.resident_bytes <= memory.resident_bytes_max
        );
        assert_eq!(worker_memory(u32::MAX), None);
    }
}
