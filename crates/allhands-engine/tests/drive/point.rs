//! Point-to-point messages: tags, order, windows, grants.

use std::time::Duration;

use allhands_engine::{
    Config, Failure, Looked, PointSubmission, Refused, SHORT_MESSAGE_MAX, ShortMessage, Space,
    Storage,
};
use allhands_plan::Rank;
use allhands_tensor::DType;
use allhands_wire::{Cause, Descriptor, Peer};

use crate::case::joined;
use crate::rng::{Rng, seeds};
use crate::world::{Call, World, tiny};

/// A send or receive of `bytes`, which are so many elements of `dtype`.
pub fn message(
    peer: usize,
    tag: u32,
    dtype: DType,
    bytes: Vec<u8>,
    now: &World,
) -> PointSubmission {
    let count = (bytes.len() / dtype.size()) as u64;
    let whole = Descriptor { op: 20, dtype: dtype.code(), count, ..Descriptor::default() };
    PointSubmission {
        peer: Rank(peer as u32),
        tag,
        descriptor: whole,
        // Lengths are compared message by message, so that the error can tell both.
        fingerprint: Descriptor { count: 0, ..whole }.fingerprint(),
        buffer: Space::single(Storage::Bytes(bytes)),
        submitted: now.now(),
        deadline: None,
    }
}

fn patient(config: Config) -> Config {
    Config { probe_after: Duration::from_secs(3600), ..config }
}

struct Sent {
    from: usize,
    to: usize,
    tag: u32,
    bytes: Vec<u8>,
    place: usize,
}

/// Plans sends as drawn, and receives in another order that keeps that of each tag.
fn exchange(
    here: &mut World,
    drawn: Vec<(usize, usize, u32, Vec<u8>)>,
    reverse: bool,
) -> Vec<Sent> {
    let all = here.all();
    let keys = here.group(1, &all);
    let mut sent = Vec::new();
    for (from, to, tag, bytes) in drawn {
        let call = Call::Send(keys[from], message(to, tag, DType::U8, bytes.clone(), here));
        here.plan(from, 0, call);
        sent.push(Sent { from, to, tag, bytes, place: 0 });
    }
    let mut order: Vec<usize> = (0..sent.len()).collect();
    if reverse {
        // The last tags first, and each tag in order.
        order.sort_by_key(|&at| std::cmp::Reverse(sent[at].tag));
    }
    for at in order {
        let Sent { from, to, tag, ref bytes, .. } = sent[at];
        let buffer = vec![0xEE; bytes.len()];
        let call = Call::Recv(keys[to], message(from, tag, DType::U8, buffer, here));
        // Receives of different tags are posted in any order.
        let order = if reverse { 1 } else { 1 + ((from as u64) << 32) + u64::from(tag) };
        sent[at].place = here.plan(to, order, call);
    }
    sent
}

fn check(here: &mut World, sent: &[Sent]) {
    let seed = here.seed;
    for Sent { from, to, tag, bytes, place } in sent {
        let call = &mut here.calls[*to][*place];
        let name = format!("{from} to {to} tag {tag}, seed {seed}");
        if let Some(short) = call.short.take() {
            assert!(short == *bytes, "{name}: wrong bytes of a short message");
            continue;
        }
        let finished = call.outcome.take().unwrap();
        assert!(finished.result.is_ok(), "{name}: {:?}", finished.result);
        assert!(joined(finished.data) == *bytes, "{name}: wrong bytes");
    }
    for engine in &here.engines {
        assert_eq!((engine.footprint().point_pool, engine.footprint().held), (0, 0));
        assert_eq!(engine.pending(), 0);
    }
}

/// Messages that went, and came, without an operation.
fn shorts(here: &World, sent: &[Sent]) -> (usize, usize) {
    let short = |rank: usize| here.calls[rank].iter().filter(|call| call.short.is_some()).count();
    let received = |at: &&Sent| here.calls[at.to][at.place].short.is_some();
    let received = sent.iter().filter(received).count();
    ((0..here.engines.len()).map(short).sum::<usize>() - received, received)
}

fn text(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

#[test]
fn messages_keep_the_order_of_their_tag_under_any_timing() {
    for seed in seeds(0, 24) {
        let mut rng = Rng::new(seed);
        let world = 2 + rng.below(3);
        let config = if rng.chance(70) { tiny() } else { Config::DEFAULT };
        let mut here = World::new(world, patient(config), seed);
        let drawn = (0..150)
            .map(|_| {
                let from = rng.below(world);
                let to = (from + 1 + rng.below(world - 1)) % world;
                let len = match rng.below(4) {
                    0 => 0,
                    1 => rng.size(100),
                    2 => 190 + rng.below(5),
                    _ => rng.size(5000),
                };
                (from, to, rng.below(4) as u32, text(&mut rng, len))
            })
            .collect();
        let sent = exchange(&mut here, drawn, false);
        here.run();
        check(&mut here, &sent);
    }
}

/// Those that need no operation are mixed with those that do.
#[test]
fn short_messages_keep_the_order_of_their_tag() {
    let (mut sends, mut receives, mut ordinary) = (0, 0, 0);
    for seed in seeds(0, 48) {
        let mut rng = Rng::new(seed);
        let world = 2 + rng.below(3);
        let config = if rng.chance(50) { tiny() } else { Config::DEFAULT };
        let mut here = World::new(world, patient(config), seed);
        here.shorts = 20 + rng.below(80);
        let one_way = rng.chance(50);
        let drawn: Vec<_> = (0..150)
            .map(|_| {
                // In one direction nothing else is in flight where messages are received.
                let from = if one_way { 0 } else { rng.below(world) };
                let to = if one_way { 1 } else { (from + 1 + rng.below(world - 1)) % world };
                let len = match rng.below(5) {
                    0 => 0,
                    1 => rng.size(100),
                    2 => 190 + rng.below(5),
                    3 => SHORT_MESSAGE_MAX - 1 + rng.below(3),
                    _ => rng.size(5000),
                };
                (from, to, rng.below(3) as u32, text(&mut rng, len))
            })
            .collect();
        // Chained receives are in one order of all tags.
        let sent = exchange(&mut here, drawn, one_way || rng.chance(30));
        if one_way {
            for place in 1..here.calls[1].len() {
                here.calls[1][place].after = vec![place - 1];
            }
        }
        here.run();
        let (went, came) = shorts(&here, &sent);
        (sends, receives, ordinary) = (sends + went, receives + came, ordinary + 300 - went - came);
        check(&mut here, &sent);
    }
    assert!(sends > 500 && receives > 100 && ordinary > 500, "{sends} {receives} {ordinary}");
}

/// What a short message does not fit goes the ordinary way, which says what is wrong.
#[test]
fn short_messages_that_do_not_fit_are_left_where_they_are() {
    let mut here = World::new(2, patient(Config::DEFAULT), 0);
    let keys = here.group(1, &[0, 1]);
    let of = |peer, tag, dtype| {
        let call = message(peer, tag, dtype, vec![0; 8], &here);
        ShortMessage { peer: call.peer, tag, fingerprint: call.fingerprint }
    };
    let (bytes, floats) = (of(1, 7, DType::U8), of(0, 7, DType::F32));
    let (to_nobody, to_self) = (of(2, 7, DType::U8), of(0, 7, DType::U8));
    let [first, second] = &mut here.engines[..] else { panic!("two ranks") };
    for wrong in [to_nobody, to_self] {
        assert_eq!(first.send_short(keys[0], &wrong, &[1; 8]), None);
    }
    assert_eq!(first.send_short(keys[0], &bytes, &vec![1; SHORT_MESSAGE_MAX + 1]), None);
    assert!(first.send_short(keys[0], &bytes, &[1; 8]).is_some());
    assert!(first.is_owing() && first.is_restless(), "a copy waits for the link");
    let mut target = [0; 8];
    let right = ShortMessage { peer: Rank(0), ..bytes };
    assert_eq!(second.recv_short(keys[1], &right, &mut target), Looked::Absent);
    here.run();
    assert!(!here.engines[0].is_owing() && !here.engines[0].is_restless());
    let second = &mut here.engines[1];
    assert_eq!(second.recv_short(keys[1], &floats, &mut target), Looked::Unfit);
    assert_eq!(second.recv_short(keys[1], &right, &mut [0; 9]), Looked::Unfit);
    let other = ShortMessage { tag: 8, ..right };
    assert_eq!(second.recv_short(keys[1], &other, &mut target), Looked::Absent);
    assert_eq!(second.recv_short(keys[1], &right, &mut target), Looked::Taken(0));
    assert_eq!(target, [1; 8]);
    assert_eq!((second.footprint().point_pool, second.footprint().held), (0, 0));
}

#[test]
fn a_full_window_does_not_hide_what_is_asked_for() {
    for seed in seeds(0, 12) {
        let mut rng = Rng::new(seed);
        let mut here = World::new(2, patient(tiny()), seed);
        // Each has its own tag, and the last is wanted first: most must be announced.
        let drawn = (0..120)
            .map(|tag| {
                let len = if rng.chance(40) { 0 } else { rng.size(900) };
                (0, 1, tag, text(&mut rng, len))
            })
            .collect();
        let sent = exchange(&mut here, drawn, true);
        here.hold(1);
        here.run_ready();
        let full = here.engines[1].footprint();
        assert!(full.point_pool > tiny().eager_window / 2, "the window was not filled: {full:?}");
        here.release(1);
        here.run();
        check(&mut here, &sent);
    }
}

#[test]
fn messages_beyond_what_may_be_announced_wait_their_turn() {
    let mut rng = Rng::new(5);
    let mut here = World::new(2, patient(tiny()), 5);
    here.weather.grain = 1 << 14;
    here.weather.capacity = 1 << 18;
    here.weather.burst = 1 << 18;
    here.weather.slow = 0;
    let drawn =
        (0..4300).map(|number| (0, 1, 0, text(&mut rng, if number % 9 == 0 { 8 } else { 0 })));
    let drawn: Vec<_> = drawn.collect();
    let sent = exchange(&mut here, drawn, false);
    here.hold(1);
    here.run_ready();
    let held = here.engines[1].footprint();
    assert!(held.entries < 4200, "more is announced than may be: {held:?}");
    here.release(1);
    here.run();
    check(&mut here, &sent);
}

fn failure(finished: Result<(), Box<Failure>>, seed: u64) -> Failure {
    *finished.expect_err(&format!("seed {seed}: ranks disagree and the call succeeds"))
}

#[test]
fn a_message_of_another_length_or_dtype_is_a_mismatch_on_both_sides() {
    let variants: [(usize, DType, usize, DType); 6] = [
        (400, DType::F32, 404, DType::F32),
        (404, DType::F32, 400, DType::F32),
        (400, DType::F32, 400, DType::I32),
        (0, DType::F32, 8, DType::F32),
        (8, DType::F32, 0, DType::F32),
        (70_000, DType::U8, 65_000, DType::U8),
    ];
    for seed in seeds(0, 48) {
        let (mine, from, theirs, to) = variants[seed as usize % variants.len()];
        let config = if seed % 2 == 0 { tiny() } else { Config::DEFAULT };
        let mut here = World::new(3, config, seed);
        let keys = here.group(1, &[0, 1, 2]);
        let send = Call::Send(keys[0], message(1, 6, from, vec![1; mine], &here));
        let sending = here.plan(0, 0, send);
        let recv = Call::Recv(keys[1], message(0, 6, to, vec![2; theirs], &here));
        let receiving = here.plan(1, 0, recv);
        // Somebody else waits for the one that is wrong.
        let other = Call::Recv(keys[2], message(1, 0, DType::U8, vec![0; 4], &here));
        let waiting = here.plan(2, 0, other);
        if seed % 3 == 0 {
            here.hold(1);
            here.run_ready();
            here.release(1);
        }
        here.run_to_failure(Duration::from_secs(2));
        let received = here.calls[1][receiving].outcome.take().unwrap();
        assert_eq!(joined(received.data).len(), theirs);
        let report = failure(received.result, seed).report;
        assert_eq!(report.cause, Cause::Mismatch, "seed {seed}: {report}");
        let sides: Vec<(Peer, u8, u64)> = report
            .testimonies
            .iter()
            .flatten()
            .map(|side| (side.peer, side.descriptor.dtype, side.descriptor.count))
            .collect();
        let expected = [
            (Peer(0), from.code(), (mine / from.size()) as u64),
            (Peer(1), to.code(), (theirs / to.size()) as u64),
        ];
        assert_eq!(sides, expected, "seed {seed}");
        let waited = here.calls[2][waiting].outcome.take().unwrap();
        assert_eq!(failure(waited.result, seed).report, report);
        let sent = here.calls[0][sending].outcome.take().unwrap();
        // A short message may be gone before the mismatch shows; then the next call tells.
        if sent.result.is_err() {
            assert_eq!(failure(sent.result, seed).report, report);
        }
        let next = message(1, 6, from, vec![9; 3], &here);
        let refused = here.engines[0].submit_send(keys[0], next).unwrap_err();
        assert!(refused.reason.to_string().contains("mismatch"), "{}", refused.reason);
        assert_eq!(joined(refused.data), [9; 3]);
    }
}

#[test]
fn calls_that_make_no_sense_are_refused_with_their_buffers() {
    let mut here = World::new(2, tiny(), 0);
    let keys = here.group(1, &[0, 1]);
    let of = |peer| message(peer, 0, DType::U8, vec![7; 5], &here);
    let (to_self, to_nobody) = (of(0), of(2));
    let engine = &mut here.engines[0];
    let refused: [Box<Refused>; 2] = [
        engine.submit_send(keys[0], to_self).unwrap_err(),
        engine.submit_recv(keys[0], to_nobody).unwrap_err(),
    ];
    for (refused, word) in refused.into_iter().zip(["itself", "not in a group of 2"]) {
        assert!(refused.reason.to_string().contains(word), "{}", refused.reason);
        assert_eq!(joined(refused.data), [7; 5]);
    }
    assert_eq!(engine.pending(), 0);
}
