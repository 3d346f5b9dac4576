//! Nothing is allocated before authentication, and never by a length on the wire.

use allhands_wire::{
    Address, CONTROL_FRAME_MAX, Cause, Describe, Descriptor, FrameDecoder, HEADER_LEN,
    HandshakeState, Header, HostHash, Identity, Initiator, JobHash, JobKey, Message, Nonce,
    PAYLOAD_CAP, Peer, Ping, Purpose, Report, Responder, TRANSFER_MAX,
};
use allocation_counter::measure;

fn identity(me: u32) -> Identity {
    Identity {
        job: JobHash::of("job"),
        epoch: 0,
        me: Peer(me),
        world: 2,
        lanes: 1,
        pid: me,
        host: HostHash::of(b"host"),
    }
}

#[test]
fn a_handshake_allocates_nothing() {
    let key = JobKey::new([7; 32]);
    let info = measure(|| {
        for key_of_initiator in [JobKey::new([7; 32]), JobKey::new([8; 32])] {
            let mut responder = Responder::new(&key, &identity(0), Nonce([1; 16]));
            let mut initiator = Initiator::new(
                &key_of_initiator,
                &identity(1),
                Peer(0),
                Purpose::Control,
                Nonce([2; 16]),
            );
            let n = initiator.handle_bytes(responder.poll_output());
            responder.handle_sent(n);
            let n = responder.handle_bytes(initiator.poll_output());
            initiator.handle_sent(n);
            let proved = responder.decide().map(|decision| decision.grant()).is_some();
            let n = initiator.handle_bytes(responder.poll_output());
            responder.handle_sent(n);
            assert_eq!(proved, key == key_of_initiator);
            assert_eq!(proved, matches!(initiator.state(), HandshakeState::Granted(_)));
        }
        let mut stray = Responder::new(&key, &identity(0), Nonce([1; 16]));
        stray.handle_bytes(b"GET / HTTP/1.1");
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn a_pending_handshake_is_small() {
    assert!(size_of::<Responder>() <= 512, "{} bytes", size_of::<Responder>());
    assert!(size_of::<Initiator>() <= 768, "{} bytes", size_of::<Initiator>());
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let largest = Header { xfer_len: TRANSFER_MAX, payload_len: PAYLOAD_CAP, ..Header::default() };
    let mut liar = Header { xfer_len: u64::MAX, payload_len: u32::MAX, ..largest }.encode();
    let crc = crc32c::crc32c(&liar[..60]);
    liar[60..].copy_from_slice(&crc.to_le_bytes());
    let info = measure(|| {
        assert_eq!(Header::decode(&largest.encode()), Ok(largest));
        assert!(Header::decode(&liar).is_err());
    });
    assert_eq!(info.count_total, 0);

    let mut decoder = FrameDecoder::control();
    let info = measure(|| {
        assert!(decoder.handle_bytes(&liar).is_err());
        assert!(decoder.poll_frame().is_none());
    });
    assert_eq!(info.count_total, 0);
}

#[test]
fn a_decoder_allocates_its_limit_once() {
    let frames = [
        Message::Ping(Ping::new(1, 2)),
        Message::Poison(Report::new(Cause::Silent, Peer(0), [Peer(1)])),
        Message::Describe(Describe::Tell(Descriptor::default())),
    ]
    .map(|message| message.encode(Address::default()));
    let info = measure(|| {
        let mut decoder = FrameDecoder::control();
        for frame in &frames {
            for byte in frame.as_bytes() {
                assert_eq!(decoder.handle_bytes(&[*byte]), Ok(1));
            }
            let frame = decoder.poll_frame().expect("the frame is whole");
            assert!(Message::decode(&frame.header, frame.payload).is_ok());
        }
    });
    assert_eq!(info.count_total, 1);
    assert_eq!(info.bytes_total, CONTROL_FRAME_MAX as u64);

    let info = measure(|| drop(FrameDecoder::data(u32::MAX)));
    assert_eq!(info.bytes_total, HEADER_LEN as u64 + u64::from(PAYLOAD_CAP) + 4);
}
