//! A worker process, seen from the daemon.
//!
//! Starts the daemon's own program as `worker` on one end of a socket pair, sends frames, reaps it. Never leaves a
//! process behind: what is dropped is killed. One request is in flight at a time.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::SlotSpec;
use super::ipc::{self, Frame, FrameBuffer, LoadRequest};
use super::runner::{Fault, LOAD_DEADLINE, warm_up_deadline};
use crate::flow::SlotJob;

/// How long a worker may take to end once its socket is closed or broken, before it is killed.
const END_DEADLINE: Duration = Duration::from_millis(500);

/// A started worker.
pub(super) struct WorkerProcess {
    child: Child,
    socket: UnixStream,
    received: FrameBuffer,
    request: Vec<u8>,
    output_values: usize,
}

/// What a frame from the worker means.
enum Answer {
    Ready(u32),
    Outputs(Vec<Vec<f32>>),
    Failed(String),
}

impl WorkerProcess {
    /// Starts a worker and has it load the model.
    pub(super) async fn start(spec: &SlotSpec) -> Result<Self, Fault> {
        let mut worker = Self::spawn(spec).map_err(|error| {
            Fault::Unstartable(format!("`{}` cannot start: {error}", spec.worker_program.display()))
        })?;
        let batch_max = u32::try_from(spec.inference.batch_max).unwrap_or(u32::MAX);
        let load = LoadRequest::of(&spec.package);
        ipc::encode_load(&mut worker.request, batch_max, &load)
            .map_err(|error| Fault::Refused(format!("the package cannot be handed to a worker: {error}")))?;
        let answer = worker.exchange(LOAD_DEADLINE, 1).await?;
        worker.expect_ready(answer).await?;
        worker.request = Vec::new();
        let answer = worker.exchange(warm_up_deadline(spec), 1).await?;
        worker.expect_ready(answer).await?;
        Ok(worker)
    }

    async fn expect_ready(&mut self, answer: Answer) -> Result<(), Fault> {
        match answer {
            Answer::Ready(values) if values as usize == self.output_values => Ok(()),
            Answer::Failed(text) => Err(Fault::Refused(text)),
            _ => Err(self.crash("sent another answer than asked for").await),
        }
    }

    fn spawn(spec: &SlotSpec) -> io::Result<Self> {
        let (mine, theirs) = std::os::unix::net::UnixStream::pair()?;
        mine.set_nonblocking(true)?;
        let child = Command::new(&spec.worker_program)
            .arg("worker")
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            child,
            socket: UnixStream::from_std(mine)?,
            received: FrameBuffer::default(),
            request: Vec::new(),
            output_values: spec.package.manifest().output_values(),
        })
    }

    /// Runs a batch within a deadline.
    pub(super) async fn run(
        &mut self,
        batch: &[SlotJob],
        deadline: Duration,
    ) -> Result<Vec<Vec<f32>>, Fault> {
        ipc::encode_run(&mut self.request, batch.iter().map(|job| job.values.as_slice()));
        match self.exchange(deadline, batch.len()).await? {
            Answer::Outputs(outputs) if outputs.len() == batch.len() => Ok(outputs),
            Answer::Failed(text) => Err(Fault::Refused(text)),
            _ => Err(self.crash("sent another answer than asked for").await),
        }
    }

    /// Waits until the worker has ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Fault {
        match self.child.wait().await {
            Ok(status) => fault_of(status),
            Err(error) => Fault::Crashed(format!("cannot be waited for: {error}")),
        }
    }

    /// Returns the process id, or 0 once it was reaped.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Closes the socket, which ends the worker, and kills it where it does not.
    pub(super) async fn stop(mut self) {
        drop(self.socket);
        reap(&mut self.child).await;
    }

    async fn exchange(&mut self, deadline: Duration, windows: usize) -> Result<Answer, Fault> {
        let width = self.output_values;
        let exchange = send_and_receive(&mut self.socket, &self.request, &mut self.received, width, windows);
        match within(deadline, exchange).await {
            Some(Ok(answer)) => Ok(answer),
            // The socket is broken: the worker has ended or is about to, and how tells why.
            Some(Err(error)) if is_end(&error) => Err(match reap(&mut self.child).await {
                Some(status) => fault_of(status),
                None => Fault::Crashed("closed its socket and did not end".to_owned()),
            }),
            Some(Err(error)) => Err(self.crash(&format!("sent what cannot be read: {error}")).await),
            None => {
                self.kill().await;
                Err(Fault::Deadline(deadline))
            }
        }
    }

    async fn crash(&mut self, how: &str) -> Fault {
        self.kill().await;
        Fault::Crashed(how.to_owned())
    }

    async fn kill(&mut self) {
        // Fails where the worker was reaped already.
        let _ = self.child.kill().await;
    }
}

async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Option<T> {
    timeout(deadline, work).await.ok()
}

/// Waits for a child that should end; kills it after a while, and then returns `None`.
async fn reap(child: &mut Child) -> Option<ExitStatus> {
    if let Ok(status) = timeout(END_DEADLINE, child.wait()).await {
        return status.ok();
    }
    let _ = child.kill().await;
    None
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset)
}

fn fault_of(status: ExitStatus) -> Fault {
    match status.signal().map(Signal::try_from) {
        Some(Ok(Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT)) => Fault::Killed,
        Some(Ok(Signal::SIGABRT)) => Fault::Crashed(
            "was aborted (SIGABRT): it wanted more memory than its budget, or the engine broke".to_owned(),
        ),
        Some(Ok(signal)) => Fault::Crashed(format!("was ended by {}", signal.as_str())),
        Some(Err(_)) => Fault::Crashed("was ended by an unknown signal".to_owned()),
        None => Fault::Crashed(format!("ended with code {}", status.code().unwrap_or(-1))),
    }
}

async fn send_and_receive(
    socket: &mut UnixStream,
    request: &[u8],
    received: &mut FrameBuffer,
    width: usize,
    windows: usize,
) -> io::Result<Answer> {
    // Nothing to send: the worker owes an answer already.
    if !request.is_empty() {
        socket.write_all(request).await?;
    }
    loop {
        if let Some(range) = received.frame().map_err(io::Error::other)? {
            let answer = match ipc::decode(received.bytes(range.clone())).map_err(io::Error::other)? {
                Frame::Ready { output_values } => Answer::Ready(output_values),
                Frame::Failed { text } => Answer::Failed(text),
                Frame::Outputs { values } if values.len() == windows * width => {
                    let mut values = values.iter();
                    Answer::Outputs((0..windows).map(|_| values.by_ref().take(width).collect()).collect())
                }
                _ => return Err(io::Error::other("the answer has another length than asked for")),
            };
            received.consume(range);
            return Ok(answer);
        }
        let count = socket.read(received.room().map_err(io::Error::other)?).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.advance(count);
    }
}
