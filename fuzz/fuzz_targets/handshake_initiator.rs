//! Any responder: no panic, and none that lacks the key is believed.
#![no_main]

use allhands_fuzz::{INITIATOR_NONCE, Input, identity, key, pieces, prove};
use allhands_wire::{
    GREETING_LEN, HandshakeError, HandshakeState, Initiator, PROVEN_HELLO_LEN, Peer, Purpose,
    VERDICT_LEN,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let instructions = input.byte();
    let sizes = input.sizes();
    let mut bytes = input.rest().to_vec();
    let who = identity(1);
    let purpose = if instructions & 2 == 2 { Purpose::Control } else { Purpose::Data { lane: 1 } };
    let start = || Initiator::new(&key(), &who, Peer(0), purpose, INITIATOR_NONCE);

    let whole = GREETING_LEN + VERDICT_LEN;
    let mut proved = false;
    if bytes.len() >= whole {
        // What it will say to this greeting is known, so the verdict can be proved beforehand.
        let mut rehearsal = start();
        rehearsal.handle_bytes(&bytes[..GREETING_LEN]);
        let (said, proof) = bytes.split_at_mut(whole - 32);
        let (greeting, body) = said.split_at(GREETING_LEN);
        let right = prove(2, &[greeting, rehearsal.poll_output(), body]);
        if instructions & 1 == 1 {
            proof[..32].copy_from_slice(&right);
        }
        // Seeds hold the right proof, and inputs made from them may keep it.
        proved = proof[..32] == right;
    }

    let mut initiator = start();
    assert!(initiator.poll_output().is_empty());
    let mut taken = 0;
    for piece in pieces(&bytes, &sizes) {
        let part = initiator.handle_bytes(piece);
        taken += part;
        assert!(initiator.poll_output().len() <= PROVEN_HELLO_LEN);
        if part < piece.len() {
            break;
        }
    }
    assert!(taken <= whole);
    match initiator.state() {
        HandshakeState::Granted(hello) => {
            assert!(proved, "a responder without the key was believed");
            assert_eq!((hello.src, hello.dst, hello.purpose), (Peer(0), Peer(1), purpose));
            assert_eq!((hello.job, hello.epoch, hello.world), (who.job, who.epoch, who.world));
        }
        HandshakeState::Deciding(_) => panic!("only responders decide"),
        HandshakeState::Failed(HandshakeError::Rejected(reject)) => {
            assert!(proved || reject.needs_no_proof());
        }
        HandshakeState::Working => assert!(taken < whole),
        HandshakeState::Failed(_) => {}
    }
});
