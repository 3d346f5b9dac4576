//! Control frames between threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use allhands_wire::{CONTROL_FRAME_MAX, FrameDecoder, HEADER_LEN, Peer};
use smallvec::SmallVec;

use super::doorbell::Doorbell;
use crate::port::{
    CONTROL_QUEUE_BYTES, Closed, Control, ControlEvent, ControlSendError, Unfinished, Wake,
};

/// Most control frames fit without heap memory of their own.
type Frame = SmallVec<[u8; 128]>;

enum Item {
    Frame(Peer, Frame),
    Left(Peer),
}

struct Inbox {
    items: VecDeque<Item>,
    /// Bytes that wait, by sender.
    waiting: Vec<usize>,
    abandoned: bool,
}

/// The inboxes of all ranks of a fabric.
pub(super) struct Exchange {
    inboxes: Vec<(Mutex<Inbox>, Arc<Doorbell>)>,
}

impl Exchange {
    pub(super) fn new(world: u32) -> Self {
        let inbox =
            || Inbox { items: VecDeque::new(), waiting: vec![0; world as usize], abandoned: false };
        Self { inboxes: (0..world).map(|_| (Mutex::new(inbox()), Arc::default())).collect() }
    }

    fn inbox(&self, peer: Peer) -> MutexGuard<'_, Inbox> {
        self.inboxes[peer.index()].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bell(&self, peer: Peer) -> &Arc<Doorbell> {
        &self.inboxes[peer.index()].1
    }
}

/// One rank's control connections to the other ranks of a fabric.
pub struct LocalControl {
    me: Peer,
    exchange: Arc<Exchange>,
    decoder: FrameDecoder,
    /// Peers that have left, by rank.
    left: Vec<bool>,
    /// This rank has said that it sends nothing more.
    said_goodbye: bool,
}

impl LocalControl {
    pub(super) fn new(me: Peer, exchange: Arc<Exchange>) -> Self {
        let left = vec![false; exchange.inboxes.len()];
        Self { me, exchange, decoder: FrameDecoder::control(), left, said_goodbye: false }
    }

    fn sweep(&mut self, handler: &mut dyn FnMut(ControlEvent<'_>)) -> usize {
        let mut events = 0;
        loop {
            let item = {
                let mut inbox = self.exchange.inbox(self.me);
                let item = inbox.items.pop_front();
                if let Some(Item::Frame(peer, bytes)) = &item {
                    inbox.waiting[peer.index()] -= bytes.len();
                }
                item
            };
            match item {
                None => return events,
                Some(Item::Frame(peer, _)) if self.left[peer.index()] => {}
                Some(Item::Frame(peer, bytes)) => {
                    let taken = self.decoder.handle_bytes(&bytes);
                    match (taken, self.decoder.poll_frame()) {
                        // Nobody speaks in another's name.
                        (Ok(taken), Some(frame))
                            if taken == bytes.len() && frame.header.src == peer =>
                        {
                            let (header, payload) = (frame.header, frame.payload);
                            handler(ControlEvent::Frame { peer, header, payload });
                        }
                        _ => {
                            self.decoder = FrameDecoder::control();
                            self.left[peer.index()] = true;
                            handler(ControlEvent::Closed { peer, cause: Closed::Garbled });
                        }
                    }
                    events += 1;
                }
                Some(Item::Left(peer)) => {
                    if !std::mem::replace(&mut self.left[peer.index()], true) {
                        handler(ControlEvent::Closed { peer, cause: Closed::Eof });
                        events += 1;
                    }
                }
            }
        }
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        for peer in (0..self.world()).map(Peer).filter(|peer| *peer != self.me) {
            self.exchange.inbox(peer).items.push_back(Item::Left(self.me));
            self.exchange.bell(peer).ring();
        }
    }
}

impl Control for LocalControl {
    fn peer(&self) -> Peer {
        self.me
    }

    fn world(&self) -> u32 {
        self.left.len() as u32
    }

    fn send(&mut self, peer: Peer, frame: &[u8]) -> Result<(), ControlSendError> {
        let known = self.left.get(peer.index());
        if peer == self.me || self.said_goodbye || known.is_none_or(|left| *left) {
            return Err(ControlSendError::NotConnected { peer });
        }
        if !(HEADER_LEN..=CONTROL_FRAME_MAX).contains(&frame.len()) {
            let (bytes, limit) = (frame.len(), CONTROL_FRAME_MAX);
            return Err(ControlSendError::Length { peer, bytes, least: HEADER_LEN, limit });
        }
        let mut inbox = self.exchange.inbox(peer);
        if inbox.abandoned {
            return Err(ControlSendError::NotConnected { peer });
        }
        let waiting = inbox.waiting[self.me.index()];
        if waiting + frame.len() > CONTROL_QUEUE_BYTES {
            return Err(ControlSendError::Full { peer, bytes: waiting });
        }
        inbox.waiting[self.me.index()] += frame.len();
        inbox.items.push_back(Item::Frame(self.me, Frame::from_slice(frame)));
        drop(inbox);
        self.exchange.bell(peer).ring();
        Ok(())
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(ControlEvent<'_>),
    ) -> usize {
        let bell = Arc::clone(self.exchange.bell(self.me));
        let woken = bell.silence();
        let events = self.sweep(handler);
        if events > 0 || woken || timeout == Some(Duration::ZERO) {
            return events;
        }
        bell.wait(timeout);
        self.sweep(handler)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(self.exchange.bell(self.me)) as Arc<dyn Wake>
    }

    fn shutdown(
        &mut self,
        _deadline: Instant,
        handler: &mut dyn FnMut(ControlEvent<'_>),
    ) -> Result<(), Unfinished> {
        // Frames lie in the peer's inbox already.
        self.leave();
        self.sweep(handler);
        Ok(())
    }
}

impl Drop for LocalControl {
    fn drop(&mut self) {
        self.leave();
        let mut inbox = self.exchange.inbox(self.me);
        inbox.abandoned = true;
        inbox.items = VecDeque::new();
    }
}
