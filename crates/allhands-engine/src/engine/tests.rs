use allhands_wire::{Cause, Descriptor};

use super::*;

#[test]
fn operations_that_went_with_a_panic_are_told_once() {
    let mut engine = Engine::new(Peer(0), 2, Config::DEFAULT, Instant::now());
    let members = vec![Peer(0), Peer(1)];
    let group = engine.add_group(GroupSpec { id: 1, epoch: 0, members }).unwrap();
    let descriptor = Descriptor::default();
    let receive = |engine: &mut Engine| {
        let call = PointSubmission {
            peer: Rank(1),
            tag: 0,
            descriptor,
            fingerprint: descriptor.fingerprint(),
            buffer: Space::single(Storage::Bytes(vec![0; 4])),
            submitted: Instant::now(),
            deadline: None,
        };
        engine.submit_recv(group, call).unwrap()
    };
    let (lost, kept) = (receive(&mut engine), receive(&mut engine));
    assert!(engine.forget_lost().is_empty());
    drop(engine.take_op(lost));
    assert_eq!((engine.forget_lost(), engine.pending()), (vec![lost], 1));
    assert!(engine.forget_lost().is_empty());
    // Its place is nobody else's, whatever its group does with it.
    let next = receive(&mut engine);
    assert!(![lost.index, kept.index].contains(&next.index));
    engine.abort_all(Cause::DriverPanic, "a test");
    for seconds in [1, 60] {
        // The group settles on its cause first.
        engine.handle_time(Instant::now() + std::time::Duration::from_secs(seconds));
    }
    assert_eq!(engine.pending(), 0);
    let ended: Vec<OpKey> = std::iter::from_fn(|| engine.poll_finished()).map(|f| f.key).collect();
    assert_eq!(ended, [kept, next]);
}
