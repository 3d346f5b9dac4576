//! The spinning path allocates nothing.

use std::io::IoSlice;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use allhands_transport::tcp::TcpLinks;
use allhands_transport::{Closed, Links, Port, Slices};
use allhands_wire::Peer;

/// Sends and receives one block at a time.
struct Block {
    out: [u8; 4096],
    left: usize,
    room: [u8; 4096],
    received: usize,
}

impl Port for Block {
    fn outgoing<'a>(&'a mut self, _: Peer, slices: &mut Slices<'a>) {
        if self.left > 0 {
            let start = self.out.len() - self.left;
            let (head, tail) = self.out[start..].split_at(self.left / 2);
            slices.push(IoSlice::new(head));
            slices.push(IoSlice::new(tail));
        }
    }

    fn sent(&mut self, _: Peer, bytes: usize) {
        self.left -= bytes;
    }

    fn window(&mut self, _: Peer) -> &mut [u8] {
        let at = self.received % self.room.len();
        // Half of each block is staged.
        if at < 2048 { &mut [] } else { &mut self.room[at..] }
    }

    fn filled(&mut self, _: Peer, bytes: usize) {
        self.received += bytes;
    }

    fn handle(&mut self, _: Peer, bytes: &[u8]) {
        self.received += bytes.len();
    }

    fn closed(&mut self, peer: Peer, cause: Closed) {
        panic!("{peer}: {cause}");
    }
}

#[test]
fn flush_receive_and_poll_allocate_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let far = listener.accept().expect("loopback").0;
    let mut near = TcpLinks::new(Peer(0), vec![vec![], vec![near]]).expect("descriptors");
    let mut far = TcpLinks::new(Peer(1), vec![vec![far], vec![]]).expect("descriptors");
    let block = || Block { out: [1; 4096], left: 0, room: [0; 4096], received: 0 };
    let (mut sender, mut receiver) = (block(), block());
    let mut round = || {
        sender.left = sender.out.len();
        near.flush(Peer(1), &mut sender);
        assert_eq!(sender.left, 0, "a block fits the socket");
        let all = receiver.received + sender.out.len();
        while receiver.received < all {
            far.receive(Peer(0), &mut receiver);
            far.poll(Some(Duration::ZERO), &mut receiver);
        }
        near.poll(Some(Duration::ZERO), &mut sender);
    };
    round();
    let cost = allocation_counter::measure(|| (0..100).for_each(|_| round()));
    assert_eq!(cost.count_total, 0, "{cost:?}");
}
