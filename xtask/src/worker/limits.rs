//! The machine's limits: memory copies and raw sockets between processes.

use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::bind;
use super::control::Control;
use crate::bench::limits::Mode;
use crate::bench::protocol::Reply;

/// Bytes of one call on a stream.
const CALL: usize = 1 << 20;

/// Says hello and serves commands until the driver says `quit`.
///
/// # Errors
/// The driver is gone. What goes wrong inside a command is an answer.
pub fn serve(control: &Control, rank: u32) -> Result<()> {
    // Different processes belong on different cores.
    bind::to_core(rank);
    let what = format!("limits {}", env!("CARGO_PKG_VERSION"));
    control.reply(&Reply::Hello { rank, pid: std::process::id(), what })?;
    let mut place = Limits { rank, listener: None, pairs: Vec::new(), used: 0 };
    while let Some(line) = control.next()? {
        control.answer(place.command(&line))?;
    }
    Ok(())
}

/// A process with a connection for each kind of measurement: the kernel's congestion control
/// remembers how a connection was used, and would carry that over.
struct Limits {
    rank: u32,
    listener: Option<TcpListener>,
    pairs: Vec<TcpStream>,
    used: usize,
}

impl Limits {
    fn command(&mut self, line: &str) -> Result<Reply> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["listen"] => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let port = listener.local_addr()?.port();
                self.listener = Some(listener);
                Ok(Reply::Port(port))
            }
            ["accept"] => {
                let listener = self.listener.take().context("`accept` before `listen`")?;
                self.connected(listener.accept()?.0)
            }
            ["connect", port] => {
                self.connected(TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?))?)
            }
            ["use", at] => {
                self.used = at.parse()?;
                self.pair().map(|_| Reply::Ready)
            }
            ["memcpy", bytes, iterations, company] => {
                let from = touched(bytes.parse()?);
                let mut to = touched(bytes.parse()?);
                let iterations: u64 = iterations.parse()?;
                if *company == "paired" {
                    self.meet()?;
                }
                let start = Instant::now();
                for _ in 0..iterations {
                    black_box(&mut to).copy_from_slice(black_box(&from));
                }
                elapsed(start)
            }
            ["pingpong", bytes, iterations] => self.pingpong(bytes.parse()?, iterations.parse()?),
            ["stream", mode, span, total] => {
                let mode = mode_named(mode)?;
                self.stream(mode, span.parse()?, total.parse()?)
            }
            _ => bail!("unknown command `{line}`"),
        }
    }

    fn connected(&mut self, stream: TcpStream) -> Result<Reply> {
        stream.set_nodelay(true)?;
        self.pairs.push(stream);
        Ok(Reply::Ready)
    }

    fn pair(&self) -> Result<&TcpStream> {
        self.pairs.get(self.used).context("no partner is connected")
    }

    /// Both of a pair leave at about the same time.
    fn meet(&self) -> Result<()> {
        let mut pair = self.pair()?;
        pair.set_nonblocking(false)?;
        pair.write_all(&[0])?;
        pair.read_exact(&mut [0])?;
        Ok(())
    }

    fn pingpong(&self, bytes: usize, iterations: u64) -> Result<Reply> {
        let mut buffer = vec![0; bytes];
        self.meet()?;
        let pair = self.pair()?;
        pair.set_nonblocking(true)?;
        let start = Instant::now();
        for _ in 0..iterations {
            if self.rank & 1 == 0 {
                send_spinning(pair, &buffer)?;
                receive_spinning(pair, &mut buffer)?;
            } else {
                receive_spinning(pair, &mut buffer)?;
                send_spinning(pair, &buffer)?;
            }
        }
        elapsed(start)
    }

    fn stream(&self, mode: Mode, span: usize, total: usize) -> Result<Reply> {
        let out = touched(span);
        let mut into = touched(span);
        self.meet()?;
        let mut pair = self.pair()?;
        let start = Instant::now();
        match mode {
            Mode::OneWay if self.rank & 1 == 0 => send_all(pair, &out, total)?,
            Mode::OneWay => receive_all(pair, &mut into, total)?,
            Mode::Threads => thread::scope(|scope| {
                let sender = scope.spawn(|| send_all(pair, &out, total));
                receive_all(pair, &mut into, total)?;
                sender.join().map_err(|_| io::Error::other("the sender panicked"))?
            })?,
            Mode::Poll | Mode::Spin => {
                pair.set_nonblocking(true)?;
                let (mut sent, mut received) = (0, 0);
                while sent < total || received < total {
                    let mut stalled = true;
                    if sent < total {
                        let from = &out[sent % span..];
                        let n = moved(pair.write(&from[..(CALL - sent % CALL).min(from.len())]))?;
                        sent += n;
                        stalled &= n == 0;
                    }
                    if received < total {
                        let to = &mut into[received % span..];
                        let most = (CALL - received % CALL).min(to.len());
                        let n = moved(pair.read(&mut to[..most]))?;
                        received += n;
                        stalled &= n == 0;
                    }
                    if stalled && mode == Mode::Poll {
                        let mut wanted = PollFlags::empty();
                        wanted.set(PollFlags::OUT, sent < total);
                        wanted.set(PollFlags::IN, received < total);
                        let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                        rustix::event::poll(&mut [PollFd::new(pair, wanted)], Some(&tenth))?;
                    }
                }
            }
        }
        elapsed(start)
    }
}

fn mode_named(word: &str) -> Result<Mode> {
    let mut all = Mode::ALL.into_iter();
    all.find(|m| m.word() == word).with_context(|| format!("unknown mode `{word}`"))
}

/// Memory that is really there.
fn touched(bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = (i % 251) as u8;
    }
    buffer
}

fn elapsed(start: Instant) -> Result<Reply> {
    Ok(Reply::Elapsed(start.elapsed().as_nanos().try_into()?))
}

/// Bytes moved by a non-blocking call; a closed partner is an error.
fn moved(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(err) if err.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

fn send_all(mut pair: &TcpStream, from: &[u8], total: usize) -> io::Result<()> {
    for at in (0..total).step_by(CALL) {
        let at = at % from.len();
        pair.write_all(&from[at..(at + CALL).min(from.len())])?;
    }
    Ok(())
}

fn receive_all(mut pair: &TcpStream, to: &mut [u8], total: usize) -> io::Result<()> {
    let span = to.len();
    for at in (0..total).step_by(CALL) {
        let at = at % span;
        pair.read_exact(&mut to[at..(at + CALL).min(span)])?;
    }
    Ok(())
}

fn send_spinning(mut pair: &TcpStream, mut from: &[u8]) -> io::Result<()> {
    while !from.is_empty() {
        let n = moved(pair.write(from))?;
        from = &from[n..];
    }
    Ok(())
}

fn receive_spinning(mut pair: &TcpStream, to: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < to.len() {
        at += moved(pair.read(&mut to[at..]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> [Limits; 2] {
        let mut even = Limits { rank: 0, listener: None, pairs: Vec::new(), used: 0 };
        let mut odd = Limits { rank: 1, listener: None, pairs: Vec::new(), used: 0 };
        let Reply::Port(port) = even.command("listen").unwrap() else { panic!() };
        odd.command(&format!("connect {port}")).unwrap();
        even.command("accept").unwrap();
        [even, odd]
    }

    #[test]
    fn every_probe_ends_on_both_sides() {
        let mut both = pair();
        assert_eq!(both[0].command("use 0").unwrap(), Reply::Ready);
        for line in [
            "memcpy 65536 3 alone",
            "memcpy 65536 3 paired",
            "pingpong 4 10",
            "stream one-way 1048576 4194304",
            "stream threads 2097152 4194304",
            "stream poll 1048576 4194304",
            "stream spin 2097152 4194304",
        ] {
            thread::scope(|scope| {
                let done = both.each_mut().map(|side| scope.spawn(|| side.command(line).unwrap()));
                for side in done {
                    assert!(matches!(side.join().unwrap(), Reply::Elapsed(ns) if ns > 0), "{line}");
                }
            });
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let mut alone = Limits { rank: 0, listener: None, pairs: Vec::new(), used: 0 };
        for line in
            ["accept", "use 0", "pingpong 4 1", "stream jump 1 1", "memcpy x 1 alone", "dance"]
        {
            assert!(alone.command(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_closed_partner_is_an_error() {
        let [even, mut odd] = pair();
        drop(even);
        assert!(odd.command("pingpong 4 10").is_err());
    }
}
