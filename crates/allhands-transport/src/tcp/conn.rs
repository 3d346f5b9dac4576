//! One connection on its way into the mesh.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use allhands_wire::{
    GREETING_LEN, HandshakeError, HandshakeState, Hello, Initiator, PROVEN_HELLO_LEN, Peer,
    Responder, VERDICT_LEN,
};
use mio::net::TcpStream;

/// One connection on its way.
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Bytes of the handshake that came; never more than it has.
    pub(super) taken: usize,
    pub(super) side: Side,
}

pub(super) enum Side {
    Dialling {
        dial: usize,
        initiator: Box<Initiator>,
        connected: bool,
    },
    Answering {
        responder: Box<Responder>,
        /// The place it was granted.
        claimed: Option<(Peer, usize)>,
    },
    /// In its place; watched for its end only.
    Seated {
        peer: Peer,
    },
}

/// How a connection stands after it was worked on.
pub(super) enum Stand {
    Waiting,
    Deciding(Hello),
    Granted(Hello),
    Failed(Failure),
}

pub(super) enum Failure {
    /// The system or the peer ended the connection.
    Lost(io::ErrorKind),
    Handshake(HandshakeError),
}

impl Conn {
    /// Writes and reads what the handshake wants, as far as the socket goes.
    pub(super) fn advance(&mut self) -> Stand {
        if let Side::Dialling { connected: connected @ false, .. } = &mut self.side {
            match is_connected(&self.stream) {
                Ok(true) => *connected = true,
                Ok(false) => return Stand::Waiting,
                Err(error) => return Stand::Failed(Failure::Lost(error.kind())),
            }
        }
        loop {
            while !self.output().is_empty() {
                let written = match &self.side {
                    Side::Dialling { initiator, .. } => {
                        (&self.stream).write(initiator.poll_output())
                    }
                    Side::Answering { responder, .. } => {
                        (&self.stream).write(responder.poll_output())
                    }
                    Side::Seated { .. } => Ok(0),
                };
                match written {
                    Ok(bytes) => self.handle_sent(bytes),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Stand::Waiting;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Stand::Failed(Failure::Lost(error.kind())),
                }
            }
            match self.state() {
                HandshakeState::Working => {}
                HandshakeState::Deciding(hello) => return Stand::Deciding(hello),
                HandshakeState::Granted(hello) => return Stand::Granted(hello),
                HandshakeState::Failed(error) => return Stand::Failed(Failure::Handshake(error)),
            }
            // Never more than the handshake has: what follows belongs to the links.
            let mut buffer = [0; GREETING_LEN + VERDICT_LEN];
            let room = self.handshake_len() - self.taken;
            match (&self.stream).read(&mut buffer[..room]) {
                Ok(0) => return Stand::Failed(Failure::Lost(io::ErrorKind::UnexpectedEof)),
                Ok(bytes) => {
                    self.taken += bytes;
                    self.handle_bytes(&buffer[..bytes]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Stand::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Stand::Failed(Failure::Lost(error.kind())),
            }
        }
    }

    /// Bytes of a whole handshake that this side receives.
    fn handshake_len(&self) -> usize {
        match self.side {
            Side::Dialling { .. } => GREETING_LEN + VERDICT_LEN,
            Side::Answering { .. } | Side::Seated { .. } => PROVEN_HELLO_LEN,
        }
    }

    fn output(&self) -> &[u8] {
        match &self.side {
            Side::Dialling { initiator, .. } => initiator.poll_output(),
            Side::Answering { responder, .. } => responder.poll_output(),
            Side::Seated { .. } => &[],
        }
    }

    fn handle_sent(&mut self, bytes: usize) {
        match &mut self.side {
            Side::Dialling { initiator, .. } => initiator.handle_sent(bytes),
            Side::Answering { responder, .. } => responder.handle_sent(bytes),
            Side::Seated { .. } => {}
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8]) {
        match &mut self.side {
            Side::Dialling { initiator, .. } => initiator.handle_bytes(bytes),
            Side::Answering { responder, .. } => responder.handle_bytes(bytes),
            Side::Seated { .. } => 0,
        };
    }

    fn state(&self) -> HandshakeState {
        match &self.side {
            Side::Dialling { initiator, .. } => initiator.state(),
            Side::Answering { responder, .. } => responder.state(),
            Side::Seated { .. } => HandshakeState::Working,
        }
    }
}

/// Whether a connection that was begun is there.
fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match (stream.peer_addr(), stream.local_addr()) {
        // Dialling a port of one's own that nobody listens on may meet itself.
        (Ok(far), Ok(near)) if far == near => Err(io::ErrorKind::ConnectionRefused.into()),
        (Ok(_), _) => Ok(true),
        (Err(error), _) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        (Err(error), _) => Err(error),
    }
}

/// Whether a connection has come to its end, with nothing left to read.
pub(super) fn has_ended(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        }
    }
}
