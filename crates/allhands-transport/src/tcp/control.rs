//! Small frames on connections of their own.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_wire::{CONTROL_FRAME_MAX, FrameDecoder, HEADER_LEN, Peer};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::links::{WAKE, Waker};
use crate::port::{
    CONTROL_QUEUE_BYTES, Closed, Control, ControlEvent, ControlSendError, Unfinished, Wake,
};

/// Bytes read at once; a few frames of the largest kind.
const READ_BYTES: usize = 4 * CONTROL_FRAME_MAX;

/// Reads of one peer before others get their turn.
const READS_PER_VISIT: usize = 16;

/// Readiness events taken from the operating system at once.
const EVENTS: usize = 256;

type Handler<'a> = &'a mut dyn FnMut(ControlEvent<'_>);

struct Line {
    /// `None`: this rank itself, or closed.
    stream: Option<TcpStream>,
    decoder: FrameDecoder,
    /// Bytes that wait; those before `written` are gone.
    queue: Vec<u8>,
    written: usize,
    /// Why the connection died while somebody sent; told by the next poll.
    failed: Option<Closed>,
    /// A visit ended early, and no new edge will tell.
    unread: bool,
}

impl Line {
    fn waiting(&self) -> usize {
        self.queue.len() - self.written
    }

    /// Writes what the socket takes.
    fn write(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while self.written < self.queue.len() {
            match stream.write(&self.queue[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Frames that arrived before may say why, so reading goes on first.
                    self.failed = Some(Closed::of(&error));
                    self.written = self.queue.len();
                }
            }
        }
        self.queue.clear();
        self.written = 0;
    }
}

/// One rank's control connections to all other ranks. Made by
/// [`Listener::form`](super::Listener::form).
///
/// It has a poll of its own, so that a service thread owns it while another thread drives the data.
pub struct TcpControl {
    me: Peer,
    poll: Poll,
    events: Events,
    lines: Vec<Line>,
    buffer: Box<[u8]>,
    waker: Arc<Waker>,
    /// Some line has `failed` or `unread` set.
    attention: bool,
}

impl TcpControl {
    pub(super) fn from_mio(me: Peer, streams: Vec<Option<TcpStream>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(&poll)?;
        let mut lines = Vec::with_capacity(streams.len());
        for (peer, mut stream) in streams.into_iter().enumerate() {
            if let Some(stream) = &mut stream {
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(stream, Token(peer), interest)?;
            }
            lines.push(Line {
                stream,
                decoder: FrameDecoder::control(),
                queue: Vec::new(),
                written: 0,
                failed: None,
                unread: false,
            });
        }
        Ok(Self {
            me,
            poll,
            events: Events::with_capacity(EVENTS),
            lines,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            waker,
            attention: false,
        })
    }

    /// Lets `descriptor` end a sleeping [`Control::poll`] as the waker does, each time that it becomes readable anew.
    /// It must stay open as long as the connections.
    ///
    /// # Errors
    /// The operating system refuses the descriptor.
    #[cfg(unix)]
    pub fn watch(&self, descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        super::watch(&self.poll, descriptor)
    }

    /// One visit: reads, hands over frames, and tells of the end. Returns the number of events.
    fn visit(line: &mut Line, peer: Peer, buffer: &mut [u8], handler: Handler<'_>) -> usize {
        let mut events = 0;
        line.unread = false;
        let mut cause = None;
        for _ in 0..READS_PER_VISIT {
            let Some(stream) = &mut line.stream else { return events };
            match stream.read(buffer) {
                Ok(0) => cause = Some(Closed::Eof),
                Ok(bytes) => match decode(&mut line.decoder, peer, &buffer[..bytes], handler) {
                    (frames, Ok(())) => events += frames,
                    (frames, Err(end)) => {
                        events += frames;
                        cause = Some(end);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    cause = line.failed.take();
                    if cause.is_none() {
                        return events;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => cause = Some(line.failed.take().unwrap_or(Closed::of(&error))),
            }
            if let Some(cause) = cause {
                line.stream = None;
                line.failed = None;
                line.queue = Vec::new();
                line.written = 0;
                handler(ControlEvent::Closed { peer, cause });
                return events + 1;
            }
        }
        line.unread = true;
        events
    }
}

/// Cuts `bytes` into frames. Returns how many were handed over, and whether the connection is still good.
fn decode(
    decoder: &mut FrameDecoder,
    peer: Peer,
    mut bytes: &[u8],
    handler: Handler<'_>,
) -> (usize, Result<(), Closed>) {
    let mut frames = 0;
    while !bytes.is_empty() {
        match decoder.handle_bytes(bytes) {
            Ok(taken) => bytes = &bytes[taken..],
            Err(_) => return (frames, Err(Closed::Garbled)),
        }
        if let Some(frame) = decoder.poll_frame() {
            // The handshake proved who is at the other end; nobody speaks in another's name.
            if frame.header.src != peer {
                return (frames, Err(Closed::Garbled));
            }
            handler(ControlEvent::Frame { peer, header: frame.header, payload: frame.payload });
            frames += 1;
        }
    }
    (frames, Ok(()))
}

impl Control for TcpControl {
    fn peer(&self) -> Peer {
        self.me
    }

    fn world(&self) -> u32 {
        self.lines.len() as u32
    }

    fn send(&mut self, peer: Peer, frame: &[u8]) -> Result<(), ControlSendError> {
        if !(HEADER_LEN..=CONTROL_FRAME_MAX).contains(&frame.len()) {
            let (bytes, limit) = (frame.len(), CONTROL_FRAME_MAX);
            return Err(ControlSendError::Length { peer, bytes, least: HEADER_LEN, limit });
        }
        let Some(line) = self.lines.get_mut(peer.index()) else {
            return Err(ControlSendError::NotConnected { peer });
        };
        if line.stream.is_none() || line.failed.is_some() {
            return Err(ControlSendError::NotConnected { peer });
        }
        let waiting = line.waiting();
        if waiting + frame.len() > CONTROL_QUEUE_BYTES {
            return Err(ControlSendError::Full { peer, bytes: waiting });
        }
        // Keeps the queue's memory within twice its bound.
        if line.written > 0 {
            line.queue.drain(..line.written);
            line.written = 0;
        }
        line.queue.extend_from_slice(frame);
        line.write();
        self.attention |= line.failed.is_some();
        Ok(())
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(ControlEvent<'_>),
    ) -> usize {
        let timeout = if self.attention { Some(Duration::ZERO) } else { timeout };
        // An interrupted wait counts as a wait that saw nothing.
        if self.poll.poll(&mut self.events, timeout).is_err() {
            self.events.clear();
        }
        let mut happened = 0;
        for event in self.events.iter().filter(|event| event.token() != WAKE) {
            let peer = Peer(event.token().0 as u32);
            let line = &mut self.lines[peer.index()];
            if event.is_writable() {
                line.write();
            }
            happened += Self::visit(line, peer, &mut self.buffer, handler);
            self.attention |= line.unread;
        }
        if std::mem::take(&mut self.attention) {
            for (peer, line) in self.lines.iter_mut().enumerate() {
                if line.unread || line.failed.is_some() {
                    happened += Self::visit(line, Peer(peer as u32), &mut self.buffer, handler);
                    self.attention |= line.unread;
                }
            }
        }
        happened
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.waker) as Arc<dyn Wake>
    }

    fn shutdown(
        &mut self,
        deadline: Instant,
        handler: &mut dyn FnMut(ControlEvent<'_>),
    ) -> Result<(), Unfinished> {
        loop {
            let waiting = |(peer, line): (usize, &Line)| {
                (line.stream.is_some() && line.waiting() > 0).then_some(Peer(peer as u32))
            };
            let undelivered: Vec<Peer> =
                self.lines.iter().enumerate().filter_map(waiting).collect();
            let now = Instant::now();
            if undelivered.is_empty() || now >= deadline {
                for stream in self.lines.iter().filter_map(|line| line.stream.as_ref()) {
                    // Fails where the peer is gone already.
                    let _ = stream.shutdown(Shutdown::Write);
                }
                // What has arrived is taken, so that closing does not reset what is on its way.
                self.poll(Some(Duration::ZERO), handler);
                return if undelivered.is_empty() {
                    Ok(())
                } else {
                    Err(Unfinished { undelivered, open: Vec::new() })
                };
            }
            self.poll(Some(deadline - now), handler);
        }
    }
}
