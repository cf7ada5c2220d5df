//! The worker: the child process that runs one model.
//!
//! Reads requests from the socket that is its standard input and answers on it, one at a time. Confines itself
//! before it reads the model, filters its system calls before it sees data; never opens a socket, logs or restarts.
//! The slot in the daemon starts, times and kills it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use dunlin_model_package::Manifest;
use dunlin_model_package::package::MODEL_FILE;
use dunlin_pipeline::engine::{Engine, TractEngine};

use super::confine;
use super::ipc::{self, Frame, FrameBuffer, LoadRequest};

/// Copies of the model file that live for a while during load beside the model: the file and its decoded form.
const LOAD_COPIES: u64 = 2;

/// Runs the worker until its parent closes the socket. To be called from a process of one thread whose standard
/// input is a stream socket, and with nothing else before.
#[must_use]
pub fn worker_main() -> ExitCode {
    // A panic of the engine is answered as a failure; its text is in the answer.
    std::panic::set_hook(Box::new(|_| {}));
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The socket, read and written with `read` and `write`, which are all that the filter allows.
struct Connection {
    socket: File,
    received: FrameBuffer,
    answer: Vec<u8>,
}

impl Connection {
    /// Waits for a frame; `None` where the parent has closed the socket.
    fn receive(&mut self) -> io::Result<Option<std::ops::Range<usize>>> {
        loop {
            if let Some(range) = self.received.frame().map_err(io::Error::other)? {
                return Ok(Some(range));
            }
            match self.socket.read(self.received.room().map_err(io::Error::other)?) {
                Ok(0) => return Ok(None),
                Ok(count) => self.received.advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn fail(&mut self, text: &str) -> io::Result<()> {
        ipc::encode_failed(&mut self.answer, text);
        self.socket.write_all(&self.answer)
    }
}

fn serve() -> io::Result<()> {
    let socket = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut connection = Connection { socket, received: FrameBuffer::default(), answer: Vec::new() };
    if let Err(error) = confine::confine_process() {
        return connection.fail(&error.to_string());
    }
    let Some(range) = connection.receive()? else { return Ok(()) };
    let loaded = load(connection.received.bytes(range.clone()));
    connection.received.consume(range);
    let (mut engine, manifest) = match loaded {
        Ok(loaded) => loaded,
        Err(text) => return connection.fail(&text),
    };
    // Said twice: loading has a deadline of its own, the first runs have one that follows from the model's.
    ipc::encode_ready(&mut connection.answer, manifest.output_values() as u32);
    connection.socket.write_all(&connection.answer)?;
    engine.warm_up();
    dunlin_kit::resident::release_free_heap();
    dunlin_kit::resident::release_program_pages();
    if let Err(error) = confine::filter_system_calls() {
        return connection.fail(&error.to_string());
    }
    ipc::encode_ready(&mut connection.answer, manifest.output_values() as u32);
    connection.socket.write_all(&connection.answer)?;

    let (mut values, mut outputs) = (Vec::new(), Vec::new());
    while let Some(range) = connection.receive()? {
        let Ok(Frame::Run { count, values: received }) =
            ipc::decode(connection.received.bytes(range.clone()))
        else {
            return Err(io::Error::other("only runs are asked for after the load"));
        };
        values.clear();
        values.extend(received.iter());
        connection.received.consume(range);
        match engine.run_into(count as usize, &values, &mut outputs) {
            Ok(()) => ipc::encode_outputs(&mut connection.answer, &outputs),
            Err(error) => ipc::encode_failed(&mut connection.answer, &error.to_string()),
        }
        connection.socket.write_all(&connection.answer)?;
    }
    Ok(())
}

/// Loads the model under its memory limit. The error is a text for the parent.
fn load(frame: &[u8]) -> Result<(TractEngine, Manifest), String> {
    let Ok(Frame::Load { batch_max, package }) = ipc::decode(frame) else {
        return Err("worker got no load request".to_owned());
    };
    let request: LoadRequest = serde_json::from_slice(package)
        .map_err(|error| format!("worker got no readable request: {error}"))?;
    let package = request.verify()?;
    let manifest = package.manifest();
    let file_bytes = manifest.blobs.get(MODEL_FILE).map_or(0, |blob| blob.bytes);
    confine::limit_memory(manifest.budgets.resident_bytes.saturating_add(LOAD_COPIES * file_bytes))
        .map_err(|error| error.to_string())?;
    let engine = TractEngine::load(&package, batch_max as usize).map_err(|error| error.to_string())?;
    Ok((engine, manifest.clone()))
}
