//! One connection to a server: requests out, replies in, each with a deadline.

use crate::auth::{self, CHALLENGE_LEN, HELLO_LEN, JobKey};
use crate::limits::{KEY_MAX, VALUE_MAX};
use crate::protocol::{KEY_PREFIX, MAGIC, Opcode};
use crate::time::Clock;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes read ahead of what is parsed.
const READ_AHEAD: usize = 16 << 10;

/// A reply value grows by this as it arrives, so that an announced length alone takes no memory.
const VALUE_STEP: usize = 1 << 20;

/// Longest value accepted from a server. PyTorch's servers let `append` pass the 8 MiB limit.
const REPLY_VALUE_MAX: u64 = 32 * VALUE_MAX as u64;

/// Most keys accepted from `list_keys`.
const REPLY_KEYS_MAX: u64 = 16 << 20;

/// Which operations the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// PyTorch 2.1 to 2.4: operations `00`–`0c`.
    Torch21,
    /// PyTorch 2.5 and later: PING too. `barrier` is made of `add` and `wait`, so it is not met by PyTorch's own.
    #[default]
    Torch25,
    /// PyTorch 2.15, and our server: all operations; `barrier` is the server's and meets PyTorch's.
    Torch215,
}

/// What ended a request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The time is over; the connection is in an undefined state.
    Late,
    /// The connection is gone.
    Broken(io::Error),
    /// The reply makes no sense.
    Nonsense(String),
    WrongKey,
    KeyNotAccepted,
    KeyRequired,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// A request on its way to bytes.
pub(crate) struct Encoder(pub(crate) Vec<u8>);

impl Encoder {
    pub(crate) fn new(opcode: Opcode) -> Self {
        Self(vec![opcode as u8])
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn word(mut self, word: u32) -> Self {
        self.0.extend_from_slice(&word.to_le_bytes());
        self
    }

    /// A user's key, with the slash that PyTorch puts before each.
    pub(crate) fn key(self, key: &str) -> Self {
        let mut this = self.number(key.len() as u64 + 1);
        this.0.push(KEY_PREFIX);
        this.0.extend_from_slice(key.as_bytes());
        this
    }

    pub(crate) fn keys(self, keys: &[&str]) -> Self {
        keys.iter().fold(self.number(keys.len() as u64), |this, key| this.key(key))
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.number(bytes.len() as u64);
        this.0.extend_from_slice(bytes);
        this
    }

    pub(crate) fn then(mut self, opcode: Opcode) -> Self {
        self.0.push(opcode as u8);
        self
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// Bytes `from..to` of the buffer are not parsed yet.
    from: usize,
    to: usize,
    pings: u32,
    dialect: Dialect,
}

impl Connection {
    /// Connects and greets.
    pub(crate) fn open(
        address: &SocketAddr,
        job_key: Option<&JobKey>,
        dialect: Dialect,
        clock: &Clock,
    ) -> Result<Self, Failure> {
        let left = clock.left().ok_or(Failure::Late)?;
        let stream = TcpStream::connect_timeout(address, left)?;
        stream.set_nodelay(true)?;
        // Without it a vanished server is only noticed by the deadline.
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&crate::tcp::keepalive());
        let mut seed = [0; 4];
        getrandom::fill(&mut seed).map_err(|error| Failure::Broken(error.into()))?;
        let buffer = vec![0; READ_AHEAD].into_boxed_slice();
        let pings = u32::from_le_bytes(seed);
        let mut this = Self { stream, buffer, from: 0, to: 0, pings, dialect };
        let mut greeting = Vec::new();
        if let Some(key) = job_key {
            greeting.extend_from_slice(&this.prove(key, clock)?);
        }
        // In one write: PyTorch's server forgets a client whose first bytes come alone.
        greeting.extend(Encoder::new(Opcode::Validate).word(MAGIC).0);
        this.acknowledged(greeting, clock)?;
        Ok(this)
    }

    /// The address from which this host reaches the server.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    /// Answers the server's challenge; returns our proof.
    fn prove(&mut self, key: &JobKey, clock: &Clock) -> Result<[u8; 32], Failure> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| Failure::Broken(error.into()))?;
        let hello: [u8; HELLO_LEN] = auth::hello(&nonce);
        self.send(&hello, clock)?;
        let head: [u8; 8] = self.array(clock)?;
        if head[..7] != auth::REPLY_PREFIX {
            return Err(Failure::Nonsense("no answer to the job-key greeting".to_owned()));
        }
        if head[7] == auth::STATUS_NO_KEY {
            return Err(Failure::KeyNotAccepted);
        }
        let mut challenge = [0; CHALLENGE_LEN];
        challenge[..8].copy_from_slice(&head);
        self.fill(&mut challenge[8..], clock)?;
        auth::respond(key, &hello, &challenge).ok_or(Failure::WrongKey)
    }

    /// Sends requests that have no reply, and waits until the server has carried them out.
    pub(crate) fn acknowledged(&mut self, request: Vec<u8>, clock: &Clock) -> Result<(), Failure> {
        if self.dialect < Dialect::Torch25 {
            self.send(&Encoder(request).then(Opcode::NumKeys).0, clock)?;
            return self.number(clock).map(drop);
        }
        self.pings = self.pings.wrapping_add(1);
        self.send(&Encoder(request).then(Opcode::Ping).word(self.pings).0, clock)?;
        let echo: [u8; 4] = self.array(clock)?;
        if echo == auth::REPLY_PREFIX[..4] {
            let rest: [u8; 4] = self.array(clock)?;
            if rest == [b'T', b'O', b'R', auth::STATUS_KEY_REQUIRED] {
                return Err(Failure::KeyRequired);
            }
        }
        if echo != self.pings.to_le_bytes() {
            return Err(Failure::Nonsense(format!(
                "ping {:08x} came back as {echo:02x?}",
                self.pings
            )));
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, mut bytes: &[u8], clock: &Clock) -> Result<(), Failure> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(clock.left().ok_or(Failure::Late)?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(Failure::Broken(io::ErrorKind::WriteZero.into())),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => again(error)?,
            }
        }
        Ok(())
    }

    /// Reads at least one byte into `target`.
    fn read_some(
        stream: &mut TcpStream,
        target: &mut [u8],
        clock: &Clock,
    ) -> Result<usize, Failure> {
        loop {
            stream.set_read_timeout(Some(clock.left().ok_or(Failure::Late)?))?;
            match stream.read(target) {
                Ok(0) => return Err(Failure::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => return Ok(count),
                Err(error) => again(error)?,
            }
        }
    }

    fn fill(&mut self, target: &mut [u8], clock: &Clock) -> Result<(), Failure> {
        let mut done = 0;
        while done < target.len() {
            if self.from == self.to {
                if target.len() - done >= self.buffer.len() {
                    done += Self::read_some(&mut self.stream, &mut target[done..], clock)?;
                    continue;
                }
                self.from = 0;
                // Empty also when the read fails: a deadline here must not leave old bytes to be read again.
                self.to = 0;
                self.to = Self::read_some(&mut self.stream, &mut self.buffer, clock)?;
            }
            let count = (self.to - self.from).min(target.len() - done);
            target[done..done + count].copy_from_slice(&self.buffer[self.from..self.from + count]);
            self.from += count;
            done += count;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, clock: &Clock) -> Result<[u8; N], Failure> {
        let mut array = [0; N];
        self.fill(&mut array, clock)?;
        Ok(array)
    }

    pub(crate) fn byte(&mut self, clock: &Clock) -> Result<u8, Failure> {
        self.array::<1>(clock).map(|[byte]| byte)
    }

    pub(crate) fn number(&mut self, clock: &Clock) -> Result<i64, Failure> {
        self.array(clock).map(i64::from_le_bytes)
    }

    /// A number that counts something.
    pub(crate) fn count(&mut self, clock: &Clock) -> Result<u64, Failure> {
        let number = self.number(clock)?;
        u64::try_from(number).map_err(|_| Failure::Nonsense(format!("a count of {number}")))
    }

    pub(crate) fn value(&mut self, clock: &Clock) -> Result<Vec<u8>, Failure> {
        self.bytes(REPLY_VALUE_MAX, clock)
    }

    pub(crate) fn key_list(&mut self, clock: &Clock) -> Result<Vec<Vec<u8>>, Failure> {
        let count = self.count(clock)?;
        if count > REPLY_KEYS_MAX {
            return Err(Failure::Nonsense(format!("{count} keys")));
        }
        (0..count).map(|_| self.bytes(KEY_MAX as u64, clock)).collect()
    }

    fn bytes(&mut self, limit: u64, clock: &Clock) -> Result<Vec<u8>, Failure> {
        let length = self.count(clock)?;
        if length > limit {
            return Err(Failure::Nonsense(format!("a reply of {length} bytes")));
        }
        let length = length as usize;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let have = bytes.len();
            bytes.resize(length.min(have + VALUE_STEP), 0);
            self.fill(&mut bytes[have..], clock)?;
        }
        Ok(bytes)
    }

    /// Sends a request that the server answers with one byte when its condition holds. After `clock` has run out the
    /// request is taken back; `false` means that the condition did not hold by then.
    pub(crate) fn await_condition(
        &mut self,
        request: &[u8],
        clock: &Clock,
        grace: Duration,
    ) -> Result<bool, Failure> {
        // Sending gets the grace too: a zero limit still looks once.
        let with_grace = Clock::start(clock.left().unwrap_or(Duration::ZERO).saturating_add(grace));
        self.send(request, &with_grace)?;
        match self.byte(clock) {
            Ok(0) => return Ok(true),
            Ok(other) => return Err(Failure::Nonsense(format!("{other} as the end of a wait"))),
            Err(Failure::Late) => {}
            Err(failure) => return Err(failure),
        }
        let grace = Clock::start(grace);
        self.send(&Encoder::new(Opcode::CancelWait).0, &grace)?;
        match self.byte(&grace)? {
            1 => Ok(false),
            // The condition came true while the cancellation was on its way; that is answered too.
            0 => match self.byte(&grace)? {
                1 => Ok(true),
                other => Err(Failure::Nonsense(format!("{other} to a cancellation"))),
            },
            other => Err(Failure::Nonsense(format!("{other} to a cancellation"))),
        }
    }
}

/// Errors that mean "try again, if there is time left".
fn again(error: io::Error) -> Result<(), Failure> {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    match error.kind() {
        Interrupted | TimedOut | WouldBlock => Ok(()),
        _ => Err(Failure::Broken(error)),
    }
}
