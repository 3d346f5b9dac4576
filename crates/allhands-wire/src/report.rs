use std::fmt;

use crate::bytes::{Reader, Writer};
use crate::descriptor::Descriptor;
use crate::error::PayloadError;
use crate::limits::{CULPRITS_MAX, REPORT_MAX, REPORT_TEXT_MAX};
use crate::peer::Peer;
use crate::text::Text;

/// Why a group broke, most telling class first.
///
/// The order decides which of several reports everybody keeps: a mismatch explains the hang-ups
/// it causes, a death explains the lost connections, a timeout explains nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cause {
    /// Ranks called different operations.
    Mismatch = 1,
    /// A user's hook or callback panicked.
    HookPanic = 2,
    /// A thread panicked while it drove the operations of its process, which nobody can go on with.
    DriverPanic = 3,
    /// A user aborted the group.
    UserAbort = 4,
    /// A process ended without a goodbye.
    PeerDied = 5,
    /// A process is stopped or unreachable: its connection stands, but nothing comes.
    Silent = 6,
    /// An operation took longer than its limit.
    Timeout = 7,
    /// A connection broke.
    ConnLost = 8,
    /// A peer sent what no correct program sends.
    Protocol = 9,
}

impl Cause {
    /// All causes, most telling first.
    pub const ALL: [Self; 9] = [
        Self::Mismatch,
        Self::HookPanic,
        Self::DriverPanic,
        Self::UserAbort,
        Self::PeerDied,
        Self::Silent,
        Self::Timeout,
        Self::ConnLost,
        Self::Protocol,
    ];

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The cause with this code on the wire.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1..=9 => Some(Self::ALL[code as usize - 1]),
            _ => None,
        }
    }

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mismatch => "mismatched operations",
            Self::HookPanic => "panic in a hook",
            Self::DriverPanic => "panic of a driver",
            Self::UserAbort => "abort by the user",
            Self::PeerDied => "death of a process",
            Self::Silent => "silence",
            Self::Timeout => "timeout",
            Self::ConnLost => "lost connection",
            Self::Protocol => "protocol violation",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Who is to blame: the lowest [`CULPRITS_MAX`] peers by name, of more the number.
///
/// ```
/// use allhands_wire::{Culprits, Peer};
///
/// let culprits: Culprits = [Peer(5), Peer(2), Peer(5)].into_iter().collect();
/// assert_eq!(culprits.listed(), &[Peer(2), Peer(5)]);
/// assert_eq!(culprits.to_string(), "peers 2, 5");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Culprits {
    peers: [Peer; CULPRITS_MAX],
    listed: u8,
    total: u32,
}

impl Culprits {
    /// Nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a peer that is not listed yet. One that is only counted is counted again.
    pub fn insert(&mut self, peer: Peer) {
        let listed = usize::from(self.listed);
        let Err(at) = self.peers[..listed].binary_search(&peer) else { return };
        self.total = self.total.saturating_add(1);
        if at == CULPRITS_MAX {
            return;
        }
        let kept = (listed + 1).min(CULPRITS_MAX);
        self.peers.copy_within(at..kept - 1, at + 1);
        self.peers[at] = peer;
        self.listed = kept as u8;
    }

    /// The peers that are named, in ascending order.
    pub fn listed(&self) -> &[Peer] {
        &self.peers[..usize::from(self.listed)]
    }

    /// How many there are, named or not.
    pub fn total(&self) -> u32 {
        self.total
    }

    fn lowest(&self) -> Option<Peer> {
        self.listed().first().copied()
    }

    fn write(&self, out: &mut Writer<'_>) {
        out.u32(self.total);
        out.u16(u16::from(self.listed));
        for peer in self.listed() {
            out.u32(peer.0);
        }
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, PayloadError> {
        let total = fields.u32("number of culprits")?;
        let listed = fields.count("culprits", CULPRITS_MAX)?;
        let mut culprits = Self::none();
        for _ in 0..listed {
            let peer = Peer(fields.u32("culprits")?);
            if culprits.listed().last().is_some_and(|&last| last >= peer) {
                return Err(PayloadError::Value { field: "culprits", value: peer.0.into() });
            }
            culprits.insert(peer);
        }
        let more_than_listed = listed == CULPRITS_MAX && total > culprits.total;
        if total != culprits.total && !more_than_listed {
            return Err(PayloadError::Value { field: "number of culprits", value: total.into() });
        }
        culprits.total = total;
        Ok(culprits)
    }
}

impl FromIterator<Peer> for Culprits {
    fn from_iter<I: IntoIterator<Item = Peer>>(peers: I) -> Self {
        let mut culprits = Self::none();
        for peer in peers {
            culprits.insert(peer);
        }
        culprits
    }
}

impl fmt::Display for Culprits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.listed() {
            [] => return f.write_str("no peer"),
            [one] => write!(f, "{one}")?,
            [first, others @ ..] => {
                write!(f, "peers {}", first.0)?;
                others.iter().try_for_each(|peer| write!(f, ", {}", peer.0))?;
            }
        }
        match self.total - u32::from(self.listed) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What one peer says an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Testimony {
    /// Who says it.
    pub peer: Peer,
    /// What it says.
    pub descriptor: Descriptor,
}

/// Why a group is broken, in at most 1 KiB: the payload of a poison frame.
///
/// Every rank that learns of a failure floods its report once and [merges](Self::merge) what it
/// hears, so that all ranks soon tell one story.
///
/// ```
/// use allhands_wire::{Cause, Peer, Report};
///
/// let seen_here = Report { seq: 812, ..Report::new(Cause::ConnLost, Peer(0), [Peer(3)]) };
/// let heard = Report { seq: 812, ..Report::new(Cause::PeerDied, Peer(2), [Peer(3)]) };
/// let mut kept = seen_here;
/// kept.merge(&heard);
/// assert_eq!(kept, heard);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// The class of the cause.
    pub cause: Cause,
    /// Who saw it first.
    pub origin: Peer,
    /// Who is to blame.
    pub culprits: Culprits,
    /// The group that broke.
    pub group: u32,
    /// The generation of its mesh.
    pub epoch: u32,
    /// The channel of the operation in which it showed.
    pub channel: u32,
    /// The number of that operation.
    pub seq: u64,
    /// How long that operation had been running, in milliseconds.
    pub elapsed_ms: u64,
    /// What two peers say the operation is, where they differ.
    pub testimonies: [Option<Testimony>; 2],
    /// More for the human: a panic's message, an operating system's error.
    pub text: Text<REPORT_TEXT_MAX>,
}

/// Which report a [merge](Report::merge) kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The one it had.
    Kept,
    /// The one it was given.
    Replaced,
}

impl Report {
    /// A report with the operation still to be filled in.
    pub fn new(cause: Cause, origin: Peer, culprits: impl IntoIterator<Item = Peer>) -> Self {
        Self {
            cause,
            origin,
            culprits: culprits.into_iter().collect(),
            group: 0,
            epoch: 0,
            channel: 0,
            seq: 0,
            elapsed_ms: 0,
            testimonies: [None; 2],
            text: Text::default(),
        }
    }

    /// Keeps the more telling of two reports: by class, then the lowest sequence number, then the
    /// lowest culprit. Equal ones are told apart by their bytes, so merging in any order, any
    /// number of times, ends with the same report everywhere.
    pub fn merge(&mut self, other: &Self) -> Merged {
        let rank = |report: &Self| {
            let culprit = report.culprits.lowest().map_or(u32::MAX, |peer| peer.0);
            (report.cause, report.seq, culprit)
        };
        let (mut mine, mut theirs) = ([0; REPORT_MAX], [0; REPORT_MAX]);
        let order = rank(other)
            .cmp(&rank(self))
            .then_with(|| other.encode(&mut theirs).cmp(self.encode(&mut mine)));
        if order.is_lt() {
            *self = *other;
            Merged::Replaced
        } else {
            Merged::Kept
        }
    }

    /// Writes the report to `buffer` and returns the part that was written.
    pub fn encode<'a>(&self, buffer: &'a mut [u8; REPORT_MAX]) -> &'a [u8] {
        let mut out = Writer::new(buffer);
        out.u8(self.cause.code());
        out.u32(self.origin.0);
        out.u32(self.group);
        out.u32(self.epoch);
        out.u32(self.channel);
        out.u64(self.seq);
        out.u64(self.elapsed_ms);
        self.culprits.write(&mut out);
        for testimony in &self.testimonies {
            match testimony {
                None => out.u8(0),
                Some(Testimony { peer, descriptor }) => {
                    out.u8(1);
                    out.u32(peer.0);
                    descriptor.write(&mut out);
                }
            }
        }
        out.text(&self.text);
        out.finish()
    }

    /// Reads a report that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`PayloadError`] if the bytes are cut, too many, or hold what no sender writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = Reader::new(bytes);
        let code = fields.u8("cause")?;
        let cause = Cause::from_code(code)
            .ok_or(PayloadError::Value { field: "cause", value: code.into() })?;
        let mut report = Self::new(cause, Peer(fields.u32("origin")?), []);
        report.group = fields.u32("group")?;
        report.epoch = fields.u32("epoch")?;
        report.channel = fields.u32("channel")?;
        report.seq = fields.u64("sequence")?;
        report.elapsed_ms = fields.u64("elapsed")?;
        report.culprits = Culprits::read(&mut fields)?;
        for testimony in &mut report.testimonies {
            *testimony = match fields.u8("testimony")? {
                0 => None,
                1 => Some(Testimony {
                    peer: Peer(fields.u32("testimony")?),
                    descriptor: Descriptor::read(&mut fields)?,
                }),
                other => {
                    return Err(PayloadError::Value { field: "testimony", value: other.into() });
                }
            };
        }
        report.text = fields.text("text")?;
        fields.end()?;
        Ok(report)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} by {} in group {} epoch {}, channel {}, operation {}, after {} ms, seen by {}",
            self.cause,
            self.culprits,
            self.group,
            self.epoch,
            self.channel,
            self.seq,
            self.elapsed_ms,
            self.origin
        )?;
        for Testimony { peer, descriptor } in self.testimonies.iter().flatten() {
            write!(f, "; {peer} calls {descriptor}")?;
        }
        if !self.text.is_empty() {
            write!(f, "; {}", self.text)?;
        }
        Ok(())
    }
}
