//! Any initiator: no panic, nothing decided without the key, and with it only for a fitting member.
#![no_main]

use allhands_fuzz::{Input, RESPONDER_NONCE, identity, key, pieces, prove};
use allhands_wire::{
    GREETING_LEN, HELLO_LEN, HandshakeError, HandshakeState, PROVEN_HELLO_LEN, Peer, Purpose,
    Reject, Responder, VERDICT_LEN,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let instructions = input.byte();
    let sizes = input.sizes();
    let mut bytes = input.rest().to_vec();
    let who = identity(0);
    let mut responder = Responder::new(&key(), &who, RESPONDER_NONCE);
    let greeting = responder.poll_output().to_vec();
    assert_eq!(greeting.len(), GREETING_LEN);

    let mut proved = false;
    if bytes.len() >= PROVEN_HELLO_LEN {
        let (hello, proof) = bytes.split_at_mut(HELLO_LEN);
        let right = prove(1, &[&greeting, hello]);
        if instructions & 1 == 1 {
            proof[..right.len()].copy_from_slice(&right);
        }
        // Seeds hold the right proof, and inputs made from them may keep it.
        proved = proof[..right.len()] == right;
    }
    let mut taken = 0;
    for piece in pieces(&bytes, &sizes) {
        let part = responder.handle_bytes(piece);
        taken += part;
        if part < piece.len() {
            break;
        }
    }
    assert!(taken <= PROVEN_HELLO_LEN);
    assert!(responder.poll_output().len() <= GREETING_LEN + VERDICT_LEN);
    responder.handle_sent(GREETING_LEN);

    let state = responder.state();
    if let Some(decision) = responder.decide() {
        assert!(proved, "somebody got in without the key");
        let hello = *decision.hello();
        assert_eq!((hello.job, hello.epoch, hello.world), (who.job, who.epoch, who.world));
        assert_eq!((hello.dst, hello.lanes), (who.me, who.lanes));
        assert!(hello.src != Peer(0) && hello.src.0 < who.world);
        assert!(match hello.purpose {
            Purpose::Control => true,
            Purpose::Data { lane } => lane < who.lanes,
        });
        assert_eq!(state, HandshakeState::Deciding(hello));
        if instructions & 2 == 2 {
            decision.refuse(Reject::Busy);
        } else {
            decision.grant();
        }
        assert_eq!(responder.poll_output().len(), VERDICT_LEN);
        let granted = matches!(responder.state(), HandshakeState::Granted(_));
        assert!(!granted, "granted before the verdict was written");
        responder.handle_sent(VERDICT_LEN);
        assert_ne!(responder.state(), HandshakeState::Working);
    } else if let HandshakeState::Failed(HandshakeError::Refused(reject)) = state {
        // Whoever proved nothing is proved nothing.
        let verdict = responder.poll_output();
        assert_eq!(verdict.len(), VERDICT_LEN);
        let silent = verdict[VERDICT_LEN - 32..].iter().all(|&byte| byte == 0);
        assert_eq!(silent, reject.needs_no_proof());
        assert!(silent || proved);
    } else {
        assert!(responder.poll_output().is_empty(), "a stray got an answer");
    }
});
