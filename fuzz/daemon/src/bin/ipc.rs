//! Frames between the daemon and a worker: any bytes, in any pieces, are a frame or an error, and take no more memory
//! than came.
//!
//! The first byte says into which pieces the rest is cut.

#![no_main]

use dunlin_daemon::slot::ipc::{
    FRAME_BYTES_MAX, Frame, FrameBuffer, LoadRequest, TEXT_BYTES_MAX, decode, encode_failed, encode_load,
    encode_outputs, encode_ready, encode_run,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let mut buffer = FrameBuffer::default();
    for piece in bytes.chunks(1 + usize::from(*step)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let Ok(room) = buffer.room() else { return };
            let count = room.len().min(rest.len());
            assert!(count > 0 && room.len() <= FRAME_BYTES_MAX + 4);
            room[..count].copy_from_slice(&rest[..count]);
            buffer.advance(count);
            rest = &rest[count..];
            loop {
                match buffer.frame() {
                    Ok(None) => break,
                    Err(_) => return,
                    Ok(Some(range)) => {
                        check(buffer.bytes(range.clone()));
                        buffer.consume(range);
                    }
                }
            }
        }
    }
});

fn check(bytes: &[u8]) {
    let Ok(frame) = decode(bytes) else { return };
    let mut written = Vec::new();
    match &frame {
        Frame::Load { batch_max, package } => return check_load(*batch_max, package),
        Frame::Run { count, values } => {
            let (count, values) = (*count as usize, values.iter().collect::<Vec<_>>());
            // Other frames of this kind are what the worker refuses: windows of no values, or of different lengths.
            if values.is_empty() || count == 0 || !values.len().is_multiple_of(count) {
                return;
            }
            encode_run(&mut written, values.chunks(values.len() / count));
        }
        Frame::Ready { output_values } => encode_ready(&mut written, *output_values),
        Frame::Outputs { values } => encode_outputs(&mut written, &values.iter().collect::<Vec<_>>()),
        Frame::Failed { text } => {
            assert!(!text.contains(char::is_control));
            assert!(text.chars().count() <= TEXT_BYTES_MAX);
            encode_failed(&mut written, text);
        }
    }
    if !matches!(frame, Frame::Failed { .. }) {
        assert_eq!(&written[4..], bytes, "a frame has one form");
    }
}

fn check_load(batch_max: u32, package: &[u8]) {
    let Ok(request) = serde_json::from_slice::<LoadRequest>(package) else { return };
    let mut written = Vec::new();
    encode_load(&mut written, batch_max, &request).expect("a path that was read from text is text");
    let again = match decode(&written[4..]) {
        Ok(Frame::Load { batch_max: same, package }) if same == batch_max => {
            serde_json::from_slice(package).ok()
        }
        _ => None,
    };
    assert_eq!(again.as_ref(), Some(&request), "what was read can be written and read");
    assert!(request.verify().is_err(), "a package without an owner's signature was verified");
}
