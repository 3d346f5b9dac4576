//! A rank that lies: its frames are changed on the way, and arbitrary bytes come instead of them. The others
//! never panic, hold no more than their bounds, and end everything that they began.

use std::collections::VecDeque;
use std::time::Duration;

use allhands_engine::{Config, POINT_CHANNEL};
use allhands_tensor::DType;
use allhands_wire::{
    Address, Cause, Describe, Descriptor, Fingerprint, Flags, HEADER_LEN, Header, Kind, Loan,
    Message, Peer, Ping, Progress, Report,
};
use proptest::prelude::*;

use crate::case::{Case, every_shape, joined};
use crate::collectives::{Memory, draw, plan_all};
use crate::point::message;
use crate::rng::{Rng, seeds};
use crate::world::{Call, World, tiny};

/// Frames of one link on their way through somebody's hands.
#[derive(Default)]
pub struct Meddler {
    bytes: VecDeque<u8>,
    kept: Option<Vec<u8>>,
}

impl Meddler {
    /// Takes what the rogue sends; returns what arrives instead.
    pub fn meddle(&mut self, rng: &mut Rng, sent: &[u8]) -> Vec<u8> {
        self.bytes.extend(sent);
        let mut out = Vec::new();
        while self.bytes.len() >= HEADER_LEN {
            let head: Vec<u8> = self.bytes.iter().copied().take(HEADER_LEN).collect();
            let header = Header::decode(head.as_slice().try_into().unwrap()).unwrap();
            if self.bytes.len() < header.frame_len() {
                break;
            }
            let frame: Vec<u8> = self.bytes.drain(..header.frame_len()).collect();
            if rng.chance(85) {
                out.extend(frame);
            } else {
                self.change(rng, header, frame, &mut out);
            }
        }
        out
    }

    fn change(&mut self, rng: &mut Rng, header: Header, frame: Vec<u8>, out: &mut Vec<u8>) {
        match rng.below(8) {
            0 => {}
            1 => out.extend([frame.clone(), frame].concat()),
            2 => {
                // Later, after the next one that is changed.
                out.extend(self.kept.replace(frame).unwrap_or_default());
            }
            3 => {
                out.extend(frame);
                out.extend(forge(rng, header).into_iter().flatten());
            }
            4 => {
                let at = rng.below(frame.len());
                let mut frame = frame;
                frame[at] ^= 1 << rng.below(8);
                out.extend(frame);
            }
            _ => {
                let payload = &frame[HEADER_LEN..];
                let changed = alter(rng, header);
                let mut bytes = changed.encode().to_vec();
                bytes.extend(
                    payload.iter().copied().chain(std::iter::repeat(7)).take(changed.body_len()),
                );
                out.extend(bytes);
            }
        }
    }
}

fn near(rng: &mut Rng, value: u64) -> u64 {
    match rng.below(7) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => 0,
        3 => u64::MAX,
        4 => value.wrapping_add(64),
        5 => value / 2,
        _ => rng.next(),
    }
}

/// A header with some fields changed, which mostly still passes its own checks.
fn alter(rng: &mut Rng, header: Header) -> Header {
    for _ in 0..50 {
        let mut changed = header;
        for _ in 0..1 + rng.below(2) {
            match rng.below(12) {
                0 => changed.kind = *rng.pick(&Kind::ALL),
                1 => changed.flags = Flags::upper(rng.below(8) as u8),
                2 => changed.channel = *rng.pick(&[0, 1, 2, 77, POINT_CHANNEL]),
                3 | 4 => changed.seq = near(rng, header.seq),
                5 => changed.fingerprint = Fingerprint(near(rng, header.fingerprint.0)),
                6 => changed.slot = near(rng, header.slot.into()) as u32,
                7 => changed.offset = near(rng, header.offset.into()) as u32,
                8 | 9 => changed.xfer_len = near(rng, header.xfer_len),
                10 => changed.payload_len = (near(rng, header.payload_len.into()) % 5000) as u32,
                _ if rng.chance(10) => changed.group = near(rng, header.group.into()) as u32,
                _ => changed.payload_len = 0,
            }
        }
        if changed.check().is_ok() {
            return changed;
        }
    }
    header
}

/// A frame that was never sent, about the same operation.
fn forge(rng: &mut Rng, header: Header) -> Option<Vec<u8>> {
    let kind = *rng.pick(&[Kind::Credit, Kind::LoanReturn, Kind::Loan, Kind::Goodbye, Kind::Data]);
    let forged = Header { kind, payload_len: 0, offset: 0, ..header };
    let mut bytes = match kind {
        Kind::Loan => {
            let loan = Loan {
                segment: rng.next(),
                offset: rng.next() >> 1,
                len: if rng.chance(70) { header.xfer_len } else { rng.next() >> 1 },
                generation: 0,
            };
            let head = Header { payload_len: 32, ..forged };
            let mut bytes = head.encode().to_vec();
            bytes.extend(loan.encode());
            bytes
        }
        Kind::Goodbye => Header { xfer_len: 0, ..forged }.encode().to_vec(),
        _ => forged.encode().to_vec(),
    };
    if rng.chance(10) {
        bytes.truncate(rng.below(bytes.len()));
    }
    Some(bytes)
}

/// A control message that its sender has no reason for.
fn lie(rng: &mut Rng, from: u32) -> (Address, Message) {
    let channel = *rng.pick(&[0, 1, 5, POINT_CHANNEL]);
    let seq = if rng.chance(80) { rng.below(4) as u64 } else { near(rng, 3) };
    let address = Address { group: 1, epoch: 3, src: Peer(from), channel, seq };
    let message = match rng.below(6) {
        0 => Message::Describe(Describe::Ask),
        1 => Message::Describe(Describe::Unknown),
        2 => {
            let op = rng.below(12) as u8;
            Message::Describe(Describe::Tell(Descriptor { op, ..Descriptor::default() }))
        }
        3 | 4 => {
            let mut ping = Ping::new(rng.next(), rng.next());
            for _ in 0..rng.below(4) {
                let submitted = near(rng, 2);
                let channel = rng.next() as u32;
                ping.push(Progress { group: 1, channel, submitted, completed: 0 });
            }
            Message::Ping(ping)
        }
        _ => {
            let cause = *rng.pick(&Cause::ALL);
            let culprit = Peer(rng.below(5) as u32);
            let report = Report::new(cause, Peer(rng.next() as u32), [culprit]);
            Message::Poison(Report { group: 1, epoch: 3, channel, seq, ..report })
        }
    };
    (address, message)
}

fn meddled(seed: u64) {
    let mut rng = Rng::new(seed);
    let config = Config { probe_after: Duration::from_millis(10), ..tiny() };
    let world = 2 + rng.below(3);
    let mut here = World::new(world, config, seed);
    here.weather.control_delay = Duration::from_micros(500);
    let memory = if rng.chance(40) { Memory::Shared } else { Memory::Private };
    if memory == Memory::Shared {
        here.lend_everywhere();
    }
    let cases: Vec<Case> = (0..14)
        .map(|turn| {
            let len = if rng.chance(20) { 0 } else { rng.size(900) as u64 };
            let (shapes, algorithm) =
                rng.pick(&every_shape(&mut rng.clone(), world as u32, len)).clone();
            let (dtype, op) = draw(&mut rng, turn);
            let channel = rng.below(3) as u32;
            Case::new(&mut rng, &shapes, algorithm, world as u32, dtype, op).on(channel)
        })
        .collect();
    let all = here.all();
    plan_all(&mut here, 1, &all, &cases, memory);
    let keys = here.keys.clone();
    for tag in 0..12 {
        let from = rng.below(world);
        let to = (from + 1 + rng.below(world - 1)) % world;
        let bytes = vec![3; if rng.chance(30) { 0 } else { rng.size(1500) }];
        let call = Call::Send(keys[from], message(to, tag % 3, DType::U8, bytes.clone(), &here));
        here.plan(from, 90, call);
        let call = Call::Recv(keys[to], message(from, tag % 3, DType::U8, bytes, &here));
        here.plan(to, 91, call);
    }
    let mut most = 2 * world * config.eager_window * world;
    for calls in &mut here.calls {
        for planned in calls {
            let limit = Some(here.base + Duration::from_secs(1));
            match &mut planned.call {
                Call::Collective(_, submission) => {
                    submission.deadline = limit;
                    most += world * world * (submission.data.len() + submission.input.len());
                }
                Call::Send(_, submission) | Call::Recv(_, submission) => {
                    submission.deadline = limit;
                    most += submission.buffer.len();
                }
                Call::Made => {}
            }
        }
    }
    here.meddle_with(1);
    for _ in 0..rng.below(4) {
        let liar = 1;
        for _ in 0..rng.below(200) {
            here.step();
        }
        let to = rng.below(world);
        if to != liar && rng.chance(40) {
            let (address, message) = lie(&mut rng, liar as u32);
            here.tell(liar, to, address, &message);
        }
    }
    here.run_until(Duration::from_secs(5));
    assert!(here.finished(), "something never ends, seed {seed}");
    for (rank, calls) in here.calls.iter_mut().enumerate() {
        for planned in calls {
            if let Some(finished) = planned.outcome.take() {
                joined(finished.data);
            }
        }
        let left = here.engines[rank].footprint();
        assert!(left.held <= most, "rank {rank} holds {left:?}, seed {seed}");
        assert_eq!(here.engines[rank].pending(), 0, "seed {seed}");
    }
    here.check_bounds();
}

#[test]
fn a_meddled_connection_breaks_nothing_but_the_group() {
    for seed in seeds(0, 250) {
        meddled(seed);
    }
}

/// An engine with a bit of everything in flight.
fn victim(seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let mut here = World::new(3, tiny(), seed);
    let cases: Vec<Case> = (0..4)
        .map(|turn| {
            let (shapes, algorithm) = rng.pick(&every_shape(&mut rng.clone(), 3, 300)).clone();
            let (dtype, op) = draw(&mut rng, turn);
            Case::new(&mut rng, &shapes, algorithm, 3, dtype, op).on(turn as u32 % 2)
        })
        .collect();
    plan_all(&mut here, 1, &[0, 1, 2], &cases, Memory::Private);
    let keys = here.keys.clone();
    let call = Call::Recv(keys[0], message(1, 0, DType::U8, vec![0; 900], &here));
    here.plan(0, 9, call);
    let call = Call::Send(keys[0], message(1, 0, DType::U8, vec![0; 900], &here));
    here.plan(0, 9, call);
    here.dead[1] = true;
    here.dead[2] = true;
    here.run_ready();
    here
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_break_the_group_and_nothing_else(
        seed in 0_u64..40,
        bytes in proptest::collection::vec(any::<u8>(), 64..400),
        cut in 1_usize..64,
    ) {
        let mut here = victim(seed);
        for chunk in bytes.chunks(cut) {
            here.engines[0].handle(Peer(1), chunk);
            prop_assert!(here.engines[0].window(Peer(1)).is_empty());
        }
        here.run_to_failure(Duration::from_secs(2));
        let report = here.engines[0].failure(here.keys[0]).expect("64 bytes of noise are no header");
        prop_assert_eq!(report.cause, Cause::Protocol);
        prop_assert_eq!(here.engines[0].pending(), 0);
        prop_assert_eq!(here.engines[0].footprint().held, 0);
    }

    /// Headers that decode, with any content.
    #[test]
    fn arbitrary_frames_end_in_bounds(
        seed in 0_u64..40,
        frames in proptest::collection::vec(
            (0_usize..8, 0_u8..8, 0_usize..5, 0_u64..4, any::<bool>(), 0_u32..4, 0_u32..4, 0_u64..1300, 0_u32..600),
            1..40,
        ),
    ) {
        let mut here = victim(seed);
        let fingerprints: Vec<Fingerprint> = here.fingerprints(0);
        for (kind, flags, channel, seq, known, slot, offset, xfer_len, payload_len) in frames {
            let right = fingerprints.get(seq as usize).copied().filter(|_| known);
            let header = Header {
                kind: Kind::ALL[kind],
                flags: Flags::upper(flags),
                group: 1,
                epoch: 3,
                src: Peer(1),
                channel: [0, 1, 2, POINT_CHANNEL, u32::MAX - 1][channel],
                seq: if seq == 3 { u64::MAX } else { seq },
                fingerprint: right.unwrap_or(Fingerprint(9)),
                slot,
                offset,
                xfer_len,
                payload_len,
            };
            let mut bytes = header.encode().to_vec();
            bytes.resize(bytes.len() + payload_len as usize, 1);
            here.engines[0].handle(Peer(1), &bytes);
            here.check_bounds();
        }
        let key = here.keys[0];
        here.engines[0].abort(key, Cause::UserAbort, "the end");
        here.run_to_failure(Duration::from_secs(2));
        prop_assert_eq!(here.engines[0].pending(), 0);
        prop_assert_eq!(here.engines[0].footprint().held, 0);
    }
}

/// A peer that tells ever better stories, or asks without end, fills no queue.
#[test]
fn floods_on_the_control_connection_fill_no_queue() {
    let mut here = victim(1);
    let engine = &mut here.engines[0];
    while engine.poll_control().is_some() {}
    let tell = |engine: &mut allhands_engine::Engine, message: Message, seq: u64| {
        let address = Address { group: 1, epoch: 3, src: Peer(1), channel: 0, seq };
        let frame = message.encode(address);
        let header: [u8; HEADER_LEN] = frame.as_bytes()[..HEADER_LEN].try_into().unwrap();
        engine.handle_control(Peer(1), &Header::decode(&header).unwrap(), &message);
    };
    for round in 0..20_000 {
        tell(engine, Message::Describe(Describe::Ask), round % 3);
    }
    let asked = std::iter::from_fn(|| engine.poll_control()).count();
    assert!((1..=1024).contains(&asked), "{asked} answers wait");
    for better in (0..2000).rev() {
        let report = Report::new(Cause::Timeout, Peer(1), [Peer(2)]);
        let report = Report { group: 1, epoch: 3, seq: better, ..report };
        tell(engine, Message::Poison(report), better);
    }
    let told: Vec<_> = std::iter::from_fn(|| engine.poll_control()).collect();
    assert!(told.len() <= 2, "{} reports wait for two peers", told.len());
    for (_, out) in told {
        let Message::Poison(report) = out.message else { panic!("{:?}", out.message) };
        assert_eq!(report.seq, 0, "the best report is told");
    }
}
