//! Results by file: they move no counter, show nothing older than what is known, and are judged like a gateway's words.

use dunlin_e2e::Outcome;
use dunlin_fleet::store::devices::{self, DeviceState};
use dunlin_protocol::exchange::Clock;
use dunlin_protocol::results::{Results, ResultsAnswer};
use dunlin_protocol::{Batch, Health, Incarnation, List, Name, Nonce, Problem, RefusalCode, ServerId};

use super::over_both;
use crate::device::{Device, post};
use crate::rows::{losses, malformed, report};
use crate::serving::Running;

/// Returns the first part of a file that was written at this time of the gateway.
fn letter(device: &Device, wall_ms: i64, batches: Vec<Batch>) -> Results {
    Results {
        device: device.id(),
        server: Some(device.server_id),
        incarnation: device.incarnation,
        file: Nonce::from_bytes([7; 16]),
        part: 1,
        counter_ceiling: device.counter + 1,
        clock: Clock { boot: Name::new("boot").unwrap(), mono_ms: 1, wall_ms, synchronised: false },
        report: Some(Box::new(report())),
        health: Health { messages: wall_ms as u64, ..Health::default() },
        batches: List::try_from(batches).unwrap(),
    }
}

/// Returns counter and messages of the health that the server shows.
fn known(running: &Running, device: &Device) -> Outcome<(u64, u64)> {
    let id = device.id().to_string();
    let device = running.write(move |sql| devices::get(sql, &id))?.unwrap();
    let health: Health =
        device.health.map_or_else(Health::default, |text| serde_json::from_str(&text).unwrap());
    Ok((device.counter, health.messages))
}

#[test]
fn a_file_brings_rows_once_and_its_report_only_while_nothing_newer_is_known() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        device.exchange(vec![losses(1, 3)])?;
        let old = letter(&device, 5_000, vec![losses(2, 4), malformed(9, 1)]);
        let answer: ResultsAnswer = device.read(&device.send_results(&old)?)?;
        assert_eq!((answer.rows_new, answer.rejected.len(), answer.refusal), (2, 1, None));
        assert_eq!(known(running, &device)?, (1, 5_000));
        let again: ResultsAnswer = device.read(&device.send_results(&old)?)?;
        assert_eq!((again.rows_new, again.receipts), (0, answer.receipts));

        // A later file shows; an earlier one that comes after it does not, and its rows are taken.
        device.send_results(&letter(&device, 7_000, Vec::new()))?;
        let between: ResultsAnswer =
            device.read(&device.send_results(&letter(&device, 6_000, vec![losses(6, 2)]))?)?;
        assert_eq!((between.rows_new, known(running, &device)?), (2, (1, 7_000)));

        // Once the gateway was heard again, what was written before shows nothing.
        let late = letter(&device, 9_000, vec![losses(8, 1)]);
        device.exchange(Vec::new())?;
        let answer: ResultsAnswer = device.read(&device.send_results(&late)?)?;
        let (counter, messages) = known(running, &device)?;
        assert_eq!((answer.rows_new, counter), (1, 2));
        assert_ne!(messages, 9_000);
        // And the exchange goes on as if there had been no files.
        device.exchange(vec![losses(9, 1)])?;
        Ok(())
    })
}

#[test]
fn files_of_others_other_servers_and_other_lives_are_refused_by_name() -> Outcome<()> {
    over_both(|running| {
        let mut device = running.enrolled(1)?;
        let stranger = running.device(2);
        let problem = |device: &Device, part: &Results| -> Outcome<RefusalCode> {
            Ok(Problem::parse(&device.send_results(part)?.body).unwrap().code)
        };
        let refused = |device: &Device, part: &Results| -> Outcome<RefusalCode> {
            let answer: ResultsAnswer = device.read(&device.send_results(part)?)?;
            assert_eq!((answer.rows_new, answer.receipts.len()), (0, 0));
            Ok(answer.refusal.unwrap().code)
        };
        let part = letter(&device, 5_000, vec![losses(1, 3)]);
        assert_eq!(problem(&stranger, &part)?, RefusalCode::Signature, "another's results");
        let unknown = letter(&stranger, 5_000, vec![losses(1, 3)]);
        assert_eq!(problem(&stranger, &unknown)?, RefusalCode::UnknownDevice);
        let elsewhere = Results { server: Some(ServerId::new(1, [9; 10])), ..part.clone() };
        assert_eq!(problem(&device, &elsewhere)?, RefusalCode::WrongServer);
        let over = Results { incarnation: Some(Incarnation::from_bytes([9; 16])), ..part.clone() };
        assert_eq!(refused(&device, &over)?, RefusalCode::WrongIncarnation);
        // A question is no part of results, and a part no question.
        let question = device.question(Vec::new());
        let reply = post(running.address, dunlin_protocol::routes::RESULTS, &device.seal(&question))?;
        assert_eq!(Problem::parse(&reply.body).unwrap().code, RefusalCode::Unsupported);
        assert_eq!(known(running, &device)?, (0, 0), "nothing was kept");

        for (state, reason, code) in [
            (DeviceState::Suspended, Some("cloned_identity"), RefusalCode::ClonedIdentity),
            (DeviceState::Suspended, Some("a person"), RefusalCode::Suspended),
            (DeviceState::Revoked, None, RefusalCode::Revoked),
        ] {
            let id = device.id().to_string();
            running.write(move |sql| devices::set_state(sql, &id, state, reason))?;
            assert_eq!(refused(&device, &part)?, code);
        }
        Ok(())
    })
}
