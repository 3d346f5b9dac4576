//! The handshake against honest, broken and hostile partners.

use allhands_wire::{
    GREETING_LEN, HELLO_LEN, HandshakeError, HandshakeState, HostHash, Identity, Incumbent,
    Initiator, JobHash, JobKey, KeyError, LANES_MAX, Nonce, PROVEN_HELLO_LEN, Peer, Purpose,
    Reject, Responder, VERDICT_LEN,
};
use proptest::prelude::*;

const KEY: JobKey = JobKey::new([7; 32]);

fn listener() -> Identity {
    Identity {
        job: JobHash::of("job"),
        epoch: 3,
        me: Peer(0),
        world: 4,
        lanes: 2,
        pid: 100,
        host: HostHash::of(b"host a"),
    }
}

fn dialler() -> Identity {
    Identity { me: Peer(1), pid: 200, host: HostHash::of(b"host b"), ..listener() }
}

fn responder() -> Responder {
    Responder::new(&KEY, &listener(), Nonce([1; 16]))
}

fn initiator() -> Initiator {
    dial(&dialler(), Purpose::Data { lane: 1 })
}

fn dial(who: &Identity, purpose: Purpose) -> Initiator {
    Initiator::new(&KEY, who, Peer(0), purpose, Nonce([2; 16]))
}

/// Everything the responder has to say now.
fn take_from_responder(responder: &mut Responder) -> Vec<u8> {
    let bytes = responder.poll_output().to_vec();
    responder.handle_sent(bytes.len());
    bytes
}

fn take_from_initiator(initiator: &mut Initiator) -> Vec<u8> {
    let bytes = initiator.poll_output().to_vec();
    initiator.handle_sent(bytes.len());
    bytes
}

/// The initiator's proven hello in answer to this responder.
fn proven_hello(initiator: &mut Initiator, responder: &mut Responder) -> Vec<u8> {
    let greeting = take_from_responder(responder);
    assert_eq!(initiator.handle_bytes(&greeting), GREETING_LEN);
    take_from_initiator(initiator)
}

/// A whole handshake; `verdict` decides if it comes that far.
fn run(
    mut initiator: Initiator,
    mut responder: Responder,
    verdict: Option<Reject>,
) -> (HandshakeState, HandshakeState) {
    let hello = proven_hello(&mut initiator, &mut responder);
    responder.handle_bytes(&hello);
    if let Some(decision) = responder.decide() {
        match verdict {
            None => decision.grant(),
            Some(reject) => decision.refuse(reject),
        }
    }
    initiator.handle_bytes(&take_from_responder(&mut responder));
    (initiator.state(), responder.state())
}

fn refused(initiator: Initiator, responder: Responder) -> (Reject, Reject) {
    match run(initiator, responder, None) {
        (
            HandshakeState::Failed(HandshakeError::Rejected(heard)),
            HandshakeState::Failed(HandshakeError::Refused(told)),
        ) => (heard, told),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn both_sides_learn_who_the_other_is() {
    for purpose in [Purpose::Control, Purpose::Data { lane: 0 }, Purpose::Data { lane: 1 }] {
        let (HandshakeState::Granted(responder), HandshakeState::Granted(initiator)) =
            run(dial(&dialler(), purpose), responder(), None)
        else {
            panic!("an honest handshake failed for {purpose}");
        };
        assert_eq!((initiator.src, initiator.dst), (Peer(1), Peer(0)));
        assert_eq!((responder.src, responder.dst), (Peer(0), Peer(1)));
        assert_eq!((initiator.pid, responder.pid), (200, 100));
        assert_eq!((initiator.host, responder.host), (dialler().host, listener().host));
        assert_eq!((initiator.purpose, responder.purpose), (purpose, purpose));
    }
}

#[test]
fn every_message_has_its_size() {
    let (mut initiator, mut responder) = (initiator(), responder());
    assert_eq!(responder.poll_output().len(), GREETING_LEN);
    assert!(initiator.poll_output().is_empty(), "the responder speaks first");
    let hello = proven_hello(&mut initiator, &mut responder);
    assert_eq!(hello.len(), PROVEN_HELLO_LEN);
    responder.handle_bytes(&hello);
    responder.decide().expect("an honest initiator gets its decision").grant();
    assert_eq!(responder.poll_output().len(), VERDICT_LEN);
}

#[test]
fn nothing_is_granted_before_the_last_byte_is_written() {
    let (mut initiator, mut responder) = (initiator(), responder());
    let hello = proven_hello(&mut initiator, &mut responder);
    assert_eq!(responder.handle_bytes(&hello[..PROVEN_HELLO_LEN - 1]), PROVEN_HELLO_LEN - 1);
    assert!(responder.decide().is_none());
    assert_eq!(responder.handle_bytes(&hello[PROVEN_HELLO_LEN - 1..]), 1);
    assert!(matches!(responder.state(), HandshakeState::Deciding(hello) if hello.src == Peer(1)));
    responder.decide().expect("the proof is in").grant();
    assert!(responder.decide().is_none(), "there is one decision");
    let verdict = responder.poll_output().to_vec();
    for byte in &verdict {
        assert_eq!(responder.state(), HandshakeState::Working);
        assert_eq!(initiator.state(), HandshakeState::Working);
        initiator.handle_bytes(&[*byte]);
        responder.handle_sent(1);
    }
    assert!(matches!(responder.state(), HandshakeState::Granted(_)));
    assert!(matches!(initiator.state(), HandshakeState::Granted(_)));
}

#[test]
fn bytes_after_the_handshake_are_left_alone() {
    let (mut initiator, mut responder) = (initiator(), responder());
    let mut hello = proven_hello(&mut initiator, &mut responder);
    hello.extend_from_slice(b"frames");
    assert_eq!(responder.handle_bytes(&hello), PROVEN_HELLO_LEN);
    assert_eq!(responder.handle_bytes(b"frames"), 0);
    responder.decide().expect("the proof is in").grant();
    let mut verdict = take_from_responder(&mut responder);
    verdict.extend_from_slice(b"frames");
    assert_eq!(initiator.handle_bytes(&verdict), VERDICT_LEN);
    assert_eq!(initiator.handle_bytes(b"frames"), 0);
}

#[test]
fn the_callers_refusals_arrive() {
    let first = Incumbent { pid: 77, host: HostHash::of(b"host c") };
    for reject in [
        Reject::DuplicateRank { first },
        Reject::Busy,
        Reject::NotMember { src: 1, dst: 0 },
        Reject::WrongEpoch { mine: 3, theirs: 4 },
    ] {
        let (heard, told) = run(initiator(), responder(), Some(reject));
        assert_eq!(told, HandshakeState::Failed(HandshakeError::Refused(reject)));
        let seen = reject.seen_from_there();
        assert_eq!(heard, HandshakeState::Failed(HandshakeError::Rejected(seen)));
    }
    let text = Reject::DuplicateRank { first }.to_string();
    assert!(text.contains("process 77 on host "), "{text}");
}

#[test]
fn misfits_are_told_both_values() {
    let dialling = |who: Identity| refused(dial(&who, Purpose::Control), responder());
    assert_eq!(
        dialling(Identity { world: 3, ..dialler() }),
        (
            Reject::WorldSizeMismatch { mine: 3, theirs: 4 },
            Reject::WorldSizeMismatch { mine: 4, theirs: 3 }
        )
    );
    assert_eq!(
        dialling(Identity { epoch: 2, world: 3, ..dialler() }),
        (Reject::WrongEpoch { mine: 2, theirs: 3 }, Reject::WrongEpoch { mine: 3, theirs: 2 })
    );
    assert_eq!(
        dialling(Identity { lanes: LANES_MAX, ..dialler() }),
        (
            Reject::LaneMismatch { mine: 16, theirs: 2 },
            Reject::LaneMismatch { mine: 2, theirs: 16 }
        )
    );
    for me in [0, 4, u32::MAX] {
        let outsider = Reject::NotMember { src: me, dst: 0 };
        assert_eq!(dialling(Identity { me: Peer(me), ..dialler() }), (outsider, outsider));
    }
    let astray = Reject::NotMember { src: 1, dst: 2 };
    let for_another = Initiator::new(&KEY, &dialler(), Peer(2), Purpose::Control, Nonce([2; 16]));
    assert_eq!(refused(for_another, responder()), (astray, astray));
    let (heard, _) = refused(dial(&dialler(), Purpose::Data { lane: 2 }), responder());
    assert_eq!(heard, Reject::NotMember { src: 1, dst: 0 });
}

/// Whoever does not hold the key learns nothing but that it does not fit.
#[test]
fn strangers_learn_nothing() {
    let other_job = Identity { job: JobHash::of("other"), ..dialler() };
    let other_key = JobKey::new([8; 32]);
    for (key, who, expected) in
        [(&KEY, other_job, Reject::WrongJob), (&other_key, dialler(), Reject::AuthFailed)]
    {
        let mut initiator = Initiator::new(key, &who, Peer(0), Purpose::Control, Nonce([2; 16]));
        let mut responder = responder();
        let hello = proven_hello(&mut initiator, &mut responder);
        responder.handle_bytes(&hello);
        assert!(responder.decide().is_none());
        let state = HandshakeState::Failed(HandshakeError::Refused(expected));
        assert_eq!(responder.state(), state);
        let verdict = take_from_responder(&mut responder);
        assert_eq!(verdict.len(), VERDICT_LEN);
        assert!(verdict[8..HELLO_LEN].iter().all(|&byte| byte == 0), "it tells who it is");
        assert!(verdict[HELLO_LEN + 1..].iter().all(|&byte| byte == 0), "it proves something");
        initiator.handle_bytes(&verdict);
        let state = HandshakeState::Failed(HandshakeError::Rejected(expected));
        assert_eq!(initiator.state(), state);
    }
    // The greeting is the same whatever the key, the job and the place.
    let elsewhere = Identity { job: JobHash::of("other"), me: Peer(3), ..listener() };
    let greeting = responder().poll_output().to_vec();
    let other = Responder::new(&other_key, &elsewhere, Nonce([1; 16]));
    assert_eq!(greeting, other.poll_output());
}

#[test]
fn a_responder_without_the_key_is_noticed() {
    let (mut initiator, mut honest) = (initiator(), responder());
    let greeting = take_from_responder(&mut honest);
    initiator.handle_bytes(&greeting);
    let hello = take_from_initiator(&mut initiator);
    honest.handle_bytes(&hello);
    honest.decide().expect("the proof is in").grant();
    let mut verdict = take_from_responder(&mut honest);
    // It may repeat what the initiator proved, but not make the responder's proof from it.
    verdict[VERDICT_LEN - 32..].copy_from_slice(&hello[HELLO_LEN..]);
    initiator.handle_bytes(&verdict);
    assert_eq!(initiator.state(), HandshakeState::Failed(HandshakeError::Unproven));
}

#[test]
fn another_member_at_a_stale_address_is_noticed() {
    // Peer 2 listens where peer 0 once did.
    let two = Identity { me: Peer(2), ..listener() };
    let (heard, _) = run(initiator(), Responder::new(&KEY, &two, Nonce([1; 16])), None);
    let expected = Reject::NotMember { src: 1, dst: 0 };
    assert_eq!(heard, HandshakeState::Failed(HandshakeError::Rejected(expected)));
}

#[test]
fn an_initiator_talking_to_an_initiator_or_to_itself_fails() {
    // Reflected: what the initiator said comes back as the responder's answer.
    let (mut initiator, mut responder) = (initiator(), responder());
    let hello = proven_hello(&mut initiator, &mut responder);
    initiator.handle_bytes(&hello);
    let stage = HandshakeError::Malformed { field: "stage" };
    assert_eq!(initiator.state(), HandshakeState::Failed(stage));
    // Two responders greet each other.
    let (mut one, mut two) = (self::responder(), self::responder());
    one.handle_bytes(&take_from_responder(&mut two));
    assert_eq!(one.state(), HandshakeState::Failed(stage));
}

#[test]
fn a_recorded_handshake_cannot_be_replayed() {
    let (mut initiator, mut first) = (initiator(), responder());
    let hello = proven_hello(&mut initiator, &mut first);
    first.handle_bytes(&hello);
    first.decide().expect("the proof is in").grant();
    let verdict = take_from_responder(&mut first);

    // The same responder process, another connection: another nonce.
    for n in 2..200 {
        let mut second = Responder::new(&KEY, &listener(), Nonce([n; 16]));
        second.handle_bytes(&hello);
        assert!(second.decide().is_none(), "a replayed hello reached a decision");
        let failed = HandshakeError::Refused(Reject::AuthFailed);
        assert_eq!(second.state(), HandshakeState::Failed(failed));
    }
    // A recorded responder against a new connection of the same initiator.
    let nonce = Nonce([3; 16]);
    let mut again = Initiator::new(&KEY, &dialler(), Peer(0), Purpose::Data { lane: 1 }, nonce);
    again.handle_bytes(self::responder().poll_output());
    again.handle_bytes(&verdict);
    assert_eq!(again.state(), HandshakeState::Failed(HandshakeError::Unproven));
}

#[test]
fn a_hello_for_one_responder_does_not_fit_another() {
    // Same job, same key: the proof names the listener and its nonce.
    let mut initiator = initiator();
    let hello = proven_hello(&mut initiator, &mut responder());
    let other = Identity { me: Peer(2), ..listener() };
    let mut other = Responder::new(&KEY, &other, Nonce([9; 16]));
    other.handle_bytes(&hello);
    let failed = HandshakeError::Refused(Reject::AuthFailed);
    assert_eq!(other.state(), HandshakeState::Failed(failed));
}

#[test]
fn every_flipped_bit_of_every_message_ends_the_handshake() {
    for bit in 0..GREETING_LEN * 8 {
        let (mut initiator, mut responder) = (initiator(), responder());
        let mut greeting = take_from_responder(&mut responder);
        greeting[bit / 8] ^= 1 << (bit % 8);
        initiator.handle_bytes(&greeting);
        responder.handle_bytes(&take_from_initiator(&mut initiator));
        assert!(responder.decide().is_none(), "greeting bit {bit}");
    }
    for bit in 0..PROVEN_HELLO_LEN * 8 {
        let (mut initiator, mut responder) = (initiator(), responder());
        let mut hello = proven_hello(&mut initiator, &mut responder);
        hello[bit / 8] ^= 1 << (bit % 8);
        responder.handle_bytes(&hello);
        assert!(responder.decide().is_none(), "hello bit {bit}");
        assert!(matches!(responder.state(), HandshakeState::Failed(_)), "hello bit {bit}");
    }
    for bit in 0..VERDICT_LEN * 8 {
        let (mut initiator, mut responder) = (initiator(), responder());
        let hello = proven_hello(&mut initiator, &mut responder);
        responder.handle_bytes(&hello);
        responder.decide().expect("the proof is in").grant();
        let mut verdict = take_from_responder(&mut responder);
        verdict[bit / 8] ^= 1 << (bit % 8);
        initiator.handle_bytes(&verdict);
        assert!(matches!(initiator.state(), HandshakeState::Failed(_)), "verdict bit {bit}");
    }
}

#[test]
fn strays_are_known_by_their_first_bytes_and_get_no_answer() {
    for stray in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00\x01", b"\0", b"aHc1"] {
        let mut responder = responder();
        take_from_responder(&mut responder);
        let taken = responder.handle_bytes(stray);
        assert!(taken <= stray.len());
        assert_eq!(responder.state(), HandshakeState::Failed(HandshakeError::NotOurs));
        assert!(responder.poll_output().is_empty());
        assert_eq!(responder.handle_bytes(stray), 0);

        let mut initiator = initiator();
        initiator.handle_bytes(stray);
        assert_eq!(initiator.state(), HandshakeState::Failed(HandshakeError::NotOurs));
        assert!(initiator.poll_output().is_empty());
    }
}

#[test]
fn other_versions_and_suites_are_told_apart() {
    let (mut initiator, mut responder) = (initiator(), responder());
    let mut hello = proven_hello(&mut initiator, &mut responder);
    hello[4] = 9;
    // Five bytes suffice, so a version of another length gets its answer too.
    responder.handle_bytes(&hello[..5]);
    let told = Reject::Version { mine: 1, theirs: 9 };
    assert_eq!(responder.state(), HandshakeState::Failed(HandshakeError::Refused(told)));
    initiator.handle_bytes(&take_from_responder(&mut responder));
    let heard = HandshakeError::Rejected(Reject::Version { mine: 9, theirs: 1 });
    assert_eq!(initiator.state(), HandshakeState::Failed(heard));

    let mut greeting = self::responder().poll_output().to_vec();
    greeting[6] = 2;
    let mut initiator = self::initiator();
    initiator.handle_bytes(&greeting);
    let suite = HandshakeError::Suite { mine: 1, theirs: 2 };
    assert_eq!(initiator.state(), HandshakeState::Failed(suite));
}

#[test]
fn a_key_shows_nothing_and_reads_only_hex() {
    let key = JobKey::new([0xAB; 32]);
    assert_eq!(format!("{key:?}"), "JobKey(..)");
    let responder = format!("{:?}", Responder::new(&key, &listener(), Nonce([1; 16])));
    assert!(!responder.contains("171, 171"), "{responder}");
    assert_eq!(key.to_hex(), "ab".repeat(32));
    assert_eq!(JobKey::from_hex(&format!(" {}\n", "aB".repeat(32))), Ok(key.clone()));
    assert_ne!(key, KEY);
    assert_eq!(JobKey::from_hex("abc"), Err(KeyError::Length { digits: 3 }));
    assert_eq!(JobKey::from_hex(&"g".repeat(64)), Err(KeyError::Digit));
}

/// The documented proof under [`KEY`], computed with nothing but the SHA-256 function.
fn prove(role: u8, transcript: &[&[u8]]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let pad = |with: u8| {
        let mut block = [with; 64];
        block[..32].iter_mut().for_each(|byte| *byte ^= 7);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(b"allhands handshake 1");
    let inner = transcript
        .iter()
        .fold(inner.chain_update([role]), |hash, part| hash.chain_update(part))
        .finalize();
    Sha256::new().chain_update(pad(0x5C)).chain_update(inner).finalize().into()
}

#[test]
fn proofs_are_the_documented_ones() {
    let (mut initiator, mut responder) = (initiator(), responder());
    let greeting = responder.poll_output().to_vec();
    let hello = proven_hello(&mut initiator, &mut responder);
    assert_eq!(hello[HELLO_LEN..], prove(1, &[&greeting, &hello[..HELLO_LEN]]));
    responder.handle_bytes(&hello);
    responder.decide().expect("the proof is in").grant();
    let verdict = take_from_responder(&mut responder);
    let (body, proof) = verdict.split_at(VERDICT_LEN - 32);
    assert_eq!(proof, prove(2, &[&greeting, &hello, body]));
}

/// A member with the key, but broken: what it says must still make sense.
#[test]
fn a_proof_does_not_excuse_nonsense() {
    for (at, value, field) in [
        (8, 9, "purpose"),
        (9, LANES_MAX, "purpose"),
        (10, 0, "lanes"),
        (10, LANES_MAX + 1, "lanes"),
        (11, 1, "reserved bytes"),
        (72, 1, "reserved bytes"),
        (95, 1, "reserved bytes"),
    ] {
        let (mut initiator, mut responder) = (initiator(), responder());
        let greeting = responder.poll_output().to_vec();
        let mut hello = proven_hello(&mut initiator, &mut responder);
        hello[at] = value;
        let proof = prove(1, &[&greeting, &hello[..HELLO_LEN]]);
        hello[HELLO_LEN..].copy_from_slice(&proof);
        responder.handle_bytes(&hello);
        assert!(responder.decide().is_none());
        let malformed = HandshakeError::Malformed { field };
        assert_eq!(responder.state(), HandshakeState::Failed(malformed), "byte {at}");
    }
    let mut greeting = responder().poll_output().to_vec();
    greeting[31] = 1;
    let mut initiator = initiator();
    initiator.handle_bytes(&greeting);
    let malformed = HandshakeError::Malformed { field: "reserved bytes" };
    assert_eq!(initiator.state(), HandshakeState::Failed(malformed));
}

/// A grant that is proved, but speaks of another connection than the one that was dialled.
#[test]
fn a_proved_grant_must_be_for_this_connection() {
    // Purpose, lane, lanes, epoch, source, destination, world, job, nonce.
    for at in [9, 10, 12, 16, 20, 24, 40, 56] {
        let (mut initiator, mut responder) = (initiator(), responder());
        let greeting = responder.poll_output().to_vec();
        let hello = proven_hello(&mut initiator, &mut responder);
        responder.handle_bytes(&hello);
        responder.decide().expect("the proof is in").grant();
        let mut verdict = take_from_responder(&mut responder);
        verdict[at] ^= 1;
        let proof = prove(2, &[&greeting, &hello, &verdict[..VERDICT_LEN - 32]]);
        verdict[VERDICT_LEN - 32..].copy_from_slice(&proof);
        initiator.handle_bytes(&verdict);
        let found = Peer(u32::from(at == 16));
        let wrong = HandshakeError::WrongPeer { dialled: Peer(0), found };
        assert_eq!(initiator.state(), HandshakeState::Failed(wrong), "byte {at}");
    }
}

/// Moves bytes in pieces of these sizes until neither side has any.
fn run_split(sizes: &[usize]) -> (HandshakeState, HandshakeState) {
    let (mut initiator, mut responder) = (initiator(), responder());
    let mut sizes = sizes.iter().copied().cycle();
    let mut size = || sizes.next().expect("at least one size");
    loop {
        let before = (initiator.poll_output().len(), responder.poll_output().len());
        let piece = responder.poll_output();
        let piece = &piece[..piece.len().min(size())];
        let taken = initiator.handle_bytes(piece);
        assert_eq!(taken, piece.len());
        responder.handle_sent(taken);
        let piece = initiator.poll_output();
        let piece = &piece[..piece.len().min(size())];
        let taken = responder.handle_bytes(piece);
        assert_eq!(taken, piece.len());
        initiator.handle_sent(taken);
        if let Some(decision) = responder.decide() {
            decision.grant();
        }
        if before == (0, 0) && responder.poll_output().is_empty() {
            return (initiator.state(), responder.state());
        }
    }
}

proptest! {
    #[test]
    fn split_anywhere_equals_whole(sizes in prop::collection::vec(1usize..200, 1..10)) {
        prop_assert_eq!(run_split(&sizes), run(initiator(), responder(), None));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_pass(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        prefix in prop::sample::select(vec![0usize, 4, 5, 6, 7, 8]),
        sizes in prop::collection::vec(1usize..100, 1..6),
    ) {
        for stage in 1..=3u8 {
            let mut bytes = bytes.clone();
            let good = [b'a', b'H', b's', b'1', 1, stage, 1, 0];
            let kept = prefix.min(bytes.len());
            bytes[..kept].copy_from_slice(&good[..kept]);
            let (mut initiator, mut responder) = (initiator(), responder());
            take_from_responder(&mut responder);
            let (mut to_initiator, mut to_responder) = (&bytes[..], &bytes[..]);
            for &size in sizes.iter().cycle().take(400) {
                let piece = &to_initiator[..size.min(to_initiator.len())];
                to_initiator = &to_initiator[initiator.handle_bytes(piece)..];
                let piece = &to_responder[..size.min(to_responder.len())];
                to_responder = &to_responder[responder.handle_bytes(piece)..];
            }
            prop_assert!(bytes.len() - to_initiator.len() <= GREETING_LEN + VERDICT_LEN);
            prop_assert!(bytes.len() - to_responder.len() <= PROVEN_HELLO_LEN);
            prop_assert!(responder.decide().is_none());
            prop_assert!(!matches!(initiator.state(), HandshakeState::Granted(_)));
        }
    }

    #[test]
    fn a_tampered_byte_is_refused(
        at in 0..GREETING_LEN + PROVEN_HELLO_LEN + VERDICT_LEN,
        change in 1u8..,
    ) {
        let (mut initiator, mut responder) = (initiator(), responder());
        let tamper = |mut message: Vec<u8>, start: usize| {
            if let Some(byte) = at.checked_sub(start).and_then(|i| message.get_mut(i)) {
                *byte ^= change;
            }
            message
        };
        initiator.handle_bytes(&tamper(take_from_responder(&mut responder), 0));
        let hello = tamper(take_from_initiator(&mut initiator), GREETING_LEN);
        responder.handle_bytes(&hello);
        if let Some(decision) = responder.decide() {
            prop_assert!(at >= GREETING_LEN + PROVEN_HELLO_LEN);
            decision.grant();
        }
        let verdict = take_from_responder(&mut responder);
        initiator.handle_bytes(&tamper(verdict, GREETING_LEN + PROVEN_HELLO_LEN));
        prop_assert!(!matches!(initiator.state(), HandshakeState::Granted(_)));
    }

    /// Two identities that differ in anything that matters never form a connection.
    #[test]
    fn only_matching_identities_connect(
        world in 2u32..5, epoch in 0u32..3, lanes in 1u8..4, me in 0u32..5, lane in 0u8..4,
        same_job in any::<bool>(), same_key in any::<bool>(),
    ) {
        let job = JobHash::of(if same_job { "job" } else { "other" });
        let key = if same_key { KEY } else { JobKey::new([9; 32]) };
        let who = Identity { job, epoch, me: Peer(me), world, lanes, ..dialler() };
        let purpose = Purpose::Data { lane };
        let initiator = Initiator::new(&key, &who, Peer(0), purpose, Nonce([2; 16]));
        let fits = same_job && same_key && world == 4 && epoch == 3 && lanes == 2
            && (1..4).contains(&me) && lane < 2;
        let (theirs, ours) = run(initiator, responder(), None);
        prop_assert_eq!(matches!(theirs, HandshakeState::Granted(_)), fits);
        prop_assert_eq!(matches!(ours, HandshakeState::Granted(_)), fits);
    }
}
