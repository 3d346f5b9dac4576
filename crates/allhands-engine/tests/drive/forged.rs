//! Frames that no engine sends, one by one: each is told apart, and none does harm.

use std::time::{Duration, Instant};

use allhands_engine::{Engine, GroupKey, GroupSpec, LoanBase, Loans};
use allhands_plan::{Algorithm, Rank, Shape};
use allhands_tensor::{DType, ReduceOp};
use allhands_wire::{Cause, Fingerprint, Flags, Header, Kind, Loan, Peer};

use crate::case::{Case, joined};
use crate::point::message;
use crate::rng::Rng;
use crate::world::{World, tiny};

/// Rank 0 of two, and the forger in the place of rank 1.
struct Forger {
    engine: Engine,
    group: GroupKey,
    case: Case,
    now: Instant,
}

const LEN: u64 = 512;

impl Forger {
    /// The engine takes part in a broadcast of 512 bytes from `root`; `submitted` says whether already.
    fn new(root: u32) -> Self {
        let now = Instant::now();
        let mut engine = Engine::new(Peer(0), 2, tiny(), now);
        let members = vec![Peer(0), Peer(1)];
        let group = engine.add_group(GroupSpec { id: 1, epoch: 3, members }).unwrap();
        engine.set_loans(Peer(1), Loans::Accepted);
        let shape = [Shape::Broadcast { len: LEN, root: Rank(root) }];
        let rng = &mut Rng::new(1);
        let case = Case::new(rng, &shape, Algorithm::Direct, 2, DType::U8, ReduceOp::Sum);
        Self { engine, group, case, now }
    }

    fn submit(&mut self) {
        let mut submission = self.case.submission(&mut Rng::new(2), 0, self.now);
        submission.loan =
            Some(LoanBase { segment: 1, generation: 1, data: Some(0), input: Some(0) });
        self.engine.submit(self.group, submission).unwrap();
    }

    fn header(&self) -> Header {
        Header {
            group: 1,
            epoch: 3,
            src: Peer(1),
            fingerprint: self.case.descriptor(1).fingerprint(),
            xfer_len: LEN,
            ..Header::default()
        }
    }

    fn point(&self) -> Header {
        let channel = allhands_engine::POINT_CHANNEL;
        Header { channel, fingerprint: Fingerprint(5), ..self.header() }
    }

    fn feed(&mut self, header: Header) {
        let mut bytes = header.encode().to_vec();
        bytes.resize(bytes.len() + header.body_len(), 9);
        self.engine.handle(Peer(1), &bytes);
    }

    fn lend(&mut self) {
        let loan = Loan { segment: 4, offset: 0, len: LEN, generation: 1 };
        let header = Header { kind: Kind::Loan, payload_len: 32, ..self.header() };
        let bytes = [header.encode().as_slice(), &loan.encode()].concat();
        self.engine.handle(Peer(1), &bytes);
    }

    /// The group must fail, because of the forger, with these words.
    fn caught(mut self, words: &str) {
        let start = self.now + Duration::from_millis(1);
        for ms in [0, 21, 150] {
            self.engine.handle_time(start + Duration::from_millis(ms));
        }
        let report =
            self.engine.failure(self.group).unwrap_or_else(|| panic!("not caught: {words}"));
        assert_eq!(report.cause, Cause::Protocol, "{report}");
        assert_eq!(report.culprits.listed(), [Peer(1)]);
        assert!(report.text.as_str().contains(words), "{} instead of {words}", report.text);
        while let Some(finished) = self.engine.poll_finished() {
            joined(finished.data);
        }
        assert_eq!((self.engine.pending(), self.engine.footprint().held), (0, 0));
    }

    fn sound(&self) {
        assert!(!self.engine.is_restless(), "{:?}", self.engine);
    }
}

#[test]
fn bytes_do_not_come_between_the_pieces_of_a_loan() {
    let mut forger = Forger::new(1);
    forger.submit();
    forger.lend();
    let pull = forger.engine.poll_pull().unwrap();
    forger.engine.handle_pulled(&pull, &[1; 64]);
    forger.sound();
    forger.feed(Header { offset: 1, payload_len: LEN as u32 - 64, ..forger.header() });
    // The reader goes on, as it knows of nothing.
    forger.engine.handle_pulled(&pull, &[1; 448]);
    forger.engine.handle_pulled(&pull, &[1; 448]);
    forger.caught("a frame continues a message");
}

#[test]
fn a_loan_is_given_once() {
    let mut forger = Forger::new(1);
    forger.submit();
    forger.lend();
    forger.sound();
    forger.lend();
    forger.caught("a frame continues a message");
    // The same before the call, when nobody reads yet.
    let mut forger = Forger::new(1);
    forger.lend();
    forger.sound();
    forger.lend();
    forger.submit();
    forger.caught("a frame continues a message");
}

#[test]
fn only_what_was_lent_comes_back() {
    let mut forger = Forger::new(0);
    forger.submit();
    // The loan is planned, but not even written.
    forger.feed(Header { kind: Kind::LoanReturn, ..forger.header() });
    forger.caught("came back that was never given");
    // Written, and then returned: that is the end of it.
    let mut forger = Forger::new(0);
    forger.submit();
    let mut slices = allhands_engine::Slices::new();
    forger.engine.outgoing(Peer(1), &mut slices);
    let written = slices.iter().map(|slice| slice.len()).sum();
    drop(slices);
    forger.engine.sent(Peer(1), written);
    assert_eq!(forger.engine.pending(), 1, "a loan is not the end of a send");
    forger.feed(Header { kind: Kind::LoanReturn, ..forger.header() });
    assert_eq!(forger.engine.pending(), 0);
    forger.sound();
}

#[test]
fn an_early_message_keeps_its_length_and_its_name() {
    for (xfer_len, other) in [(2 * LEN, false), (LEN, true)] {
        let mut forger = Forger::new(1);
        forger.feed(Header { payload_len: 64, ..forger.header() });
        forger.sound();
        let fingerprint = if other { Fingerprint(4) } else { forger.header().fingerprint };
        let more = Header { offset: 1, xfer_len, payload_len: 640 - 128, ..forger.header() };
        forger.feed(Header { fingerprint, payload_len: 448, ..more });
        forger.submit();
        forger.caught("a frame continues a message");
    }
}

#[test]
fn early_frames_fill_a_window_and_no_more() {
    for (payload_len, slots, early) in [(0, 8, 9), (64, 6, 7), (512, 2, 3)] {
        let mut forger = Forger::new(1);
        let xfer_len = u64::from(payload_len);
        for slot in 0..early {
            // The price of a frame is its payload and 256 bytes; the window has 2048.
            if slot == slots {
                forger.sound();
            }
            forger.feed(Header { slot, payload_len, xfer_len, ..forger.header() });
        }
        forger.caught("early frames exceed the window");
    }
}

#[test]
fn a_message_comes_once_and_in_order() {
    for (first, second) in
        [((0, 512), (0, 512)), ((0, 64), (0, 64)), ((0, 64), (2, 64)), ((0, 0), (0, 0))]
    {
        for early in [true, false] {
            let mut forger = Forger::new(1);
            if !early {
                forger.submit();
            }
            for (offset, payload_len) in [first, second] {
                forger.feed(Header { offset, payload_len, ..forger.header() });
            }
            if early {
                forger.submit();
            }
            let ended = first == (0, 512) && !early;
            // What came whole has ended the operation; the same once more is as bad, but of another kind.
            if ended {
                assert_eq!(forger.engine.pending(), 0);
                assert!(forger.engine.is_restless());
            } else {
                forger.caught("a frame continues a message");
            }
        }
    }
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    let mut forger = Forger::new(1);
    forger.submit();
    let last = Header { seq: u64::MAX, payload_len: 64, xfer_len: 64, ..forger.header() };
    forger.feed(Header { kind: Kind::Credit, xfer_len: 0, payload_len: 0, ..last });
    forger.feed(last);
    forger.feed(Header { slot: u32::MAX, ..last });
    forger.sound();
    assert!(forger.engine.footprint().pool > 0);
    let far = Header { offset: u32::MAX, xfer_len: 1 << 38, payload_len: 64, ..forger.header() };
    forger.feed(Header { seq: 7, ..far });
    forger.caught("a frame continues a message");
}

#[test]
fn point_to_point_messages_come_in_order_and_at_their_price() {
    let eager = Flags::upper(2);
    let announce = Flags::upper(4);
    let free = "early frames exceed the window";
    let stray = "a frame continues a message";
    let of = |forger: &Forger| Header { flags: eager, payload_len: 64, ..forger.point() };
    type Forge = fn(Header) -> Vec<Header>;
    let forgeries: [(Forge, &str); 7] = [
        // Free of charge.
        (|h| vec![Header { flags: Flags::NONE, ..h }], "early frames exceed the window"),
        // Another message before the first.
        (|h| vec![Header { seq: 1, ..h }], "a frame continues a message"),
        // The first once more.
        (|h| vec![h, h], "a frame continues a message"),
        // With another length.
        (|h| vec![h, Header { offset: 1, xfer_len: 1 << 20, ..h }], "a frame continues a message"),
        // Out of the middle.
        (|h| vec![Header { offset: 2, ..h }], "a frame continues a message"),
        // Nothing at all, and not even announced.
        (|h| vec![Header { payload_len: 0, ..h }], "a frame continues a message"),
        // More than fits.
        (
            |h| (0..9).map(|seq| Header { seq, payload_len: 512, ..h }).collect(),
            "early frames exceed the window",
        ),
    ];
    for (forge, words) in forgeries {
        assert!(words == free || words == stray);
        let mut forger = Forger::new(1);
        for header in forge(of(&forger)) {
            forger.feed(header);
        }
        forger.caught(words);
    }
    // An announcement carries nothing.
    let mut forger = Forger::new(1);
    forger.feed(Header { flags: announce.with(eager), ..of(&forger) });
    forger.caught(stray);
    // Only collectives are lent.
    let mut forger = Forger::new(1);
    let header = Header { kind: Kind::Loan, payload_len: 32, ..forger.point() };
    forger.feed(header);
    forger.caught("loans of point-to-point messages");
}

#[test]
fn a_matched_message_does_not_change_its_length() {
    let mut forger = Forger::new(1);
    let here = World::new(2, tiny(), 1);
    let call = message(1, 0, DType::U8, vec![0; LEN as usize], &here);
    let fingerprint = call.fingerprint;
    forger.engine.submit_recv(forger.group, call).unwrap();
    let begin = Header { flags: Flags::upper(2), payload_len: 64, fingerprint, ..forger.point() };
    forger.feed(begin);
    forger.sound();
    let longer = Header { offset: 1, payload_len: 4096, xfer_len: 4160, ..begin };
    forger.feed(Header { flags: Flags::NONE, ..longer });
    forger.caught("a frame continues a message");
}

#[test]
fn a_stranger_a_control_frame_and_a_huge_payload_end_the_stream() {
    type Forge = fn(Header) -> Header;
    let forgeries: [(Forge, &str); 5] = [
        (|h| Header { src: Peer(0), ..h }, "claims to be from"),
        (|h| Header { group: 2, ..h }, "unknown here"),
        (|h| Header { kind: Kind::Ping, xfer_len: 0, ..h }, "on a data connection"),
        (|h| Header { xfer_len: 1 << 24, payload_len: 1 << 22, ..h }, "above its limit"),
        (|h| Header { flags: Flags::PAYLOAD_CRC, payload_len: 64, ..h }, "not supported"),
    ];
    for (forge, words) in forgeries {
        let mut forger = Forger::new(1);
        forger.submit();
        let header = forge(forger.header());
        forger.engine.handle(Peer(1), &header.encode());
        assert!(forger.engine.window(Peer(1)).is_empty());
        forger.caught(words);
    }
}

/// What is about to fail does not end well, even if its last bytes still come.
#[test]
fn nothing_ends_well_in_a_group_that_is_about_to_fail() {
    let mut forger = Forger::new(1);
    forger.submit();
    forger.engine.abort(forger.group, Cause::UserAbort, "enough");
    forger.feed(Header { payload_len: LEN as u32, ..forger.header() });
    assert!(forger.engine.poll_finished().is_none());
    for ms in [1, 22] {
        forger.engine.handle_time(forger.now + Duration::from_millis(ms));
    }
    let finished = forger.engine.poll_finished().unwrap();
    assert_eq!(finished.result.unwrap_err().report.cause, Cause::UserAbort);
}
