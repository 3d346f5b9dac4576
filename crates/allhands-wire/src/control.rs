//! The messages of control connections, and the loan that rides on data connections.

use crate::bytes::{Reader, Writer};
use crate::descriptor::Descriptor;
use crate::error::PayloadError;
use crate::header::{Flags, Header, Kind};
use crate::limits::{
    CONTROL_FRAME_MAX, CONTROL_PAYLOAD_MAX, DESCRIPTOR_MAX, HEADER_LEN, LOAN_LEN, PAYLOAD_CRC_LEN,
    PING_PROGRESS_MAX,
};
use crate::peer::Peer;
use crate::report::Report;

/// Where a peer may read a transfer in place: the payload of a loan frame.
///
/// The numbers name memory of the *sender*. Whoever maps it checks them against the segment it
/// really has; here only their sum is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Loan {
    /// The segment.
    pub segment: u64,
    /// Where in it the bytes start.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
    /// Which use of that memory it is, so that a late reader notices.
    pub generation: u64,
}

impl Loan {
    /// The loan as it travels.
    pub fn encode(&self) -> [u8; LOAN_LEN] {
        let mut out = [0; LOAN_LEN];
        let mut fields = Writer::new(&mut out);
        fields.u64(self.segment);
        fields.u64(self.offset);
        fields.u64(self.len);
        fields.u64(self.generation);
        out
    }

    /// Reads a loan.
    ///
    /// # Errors
    /// [`PayloadError`] if there are not exactly [`LOAN_LEN`] bytes or the end of the memory
    /// overflows.
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = Reader::new(bytes);
        let loan = Self {
            segment: fields.u64("segment")?,
            offset: fields.u64("offset")?,
            len: fields.u64("length")?,
            generation: fields.u64("generation")?,
        };
        fields.end()?;
        match loan.offset.checked_add(loan.len) {
            Some(_) => Ok(loan),
            None => Err(PayloadError::Value { field: "length", value: loan.len }),
        }
    }
}

/// How far a rank is on one channel of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The group.
    pub group: u32,
    /// The channel.
    pub channel: u32,
    /// Operations submitted so far: the number of the next one.
    pub submitted: u64,
    /// Operations completed so far, at most `submitted`.
    pub completed: u64,
}

/// A sign of life, with how far its sender is.
///
/// Progress tells a dead rank from one that is stopped and from one that is merely late, and lets
/// a timeout say where everybody stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ping {
    /// The sender's monotonic clock, in microseconds. Meaningful to the sender only.
    pub stamp_us: u64,
    /// The last stamp heard from the receiver of this ping, which so learns the round trip.
    pub echo_us: u64,
    progress: [Progress; PING_PROGRESS_MAX],
    len: u8,
}

impl Ping {
    /// A ping with no progress yet.
    pub fn new(stamp_us: u64, echo_us: u64) -> Self {
        Self { stamp_us, echo_us, ..Self::default() }
    }

    /// Adds the progress of a channel; `false` if [`PING_PROGRESS_MAX`] are there already.
    ///
    /// Add those first that wait longest.
    pub fn push(&mut self, progress: Progress) -> bool {
        match self.progress.get_mut(usize::from(self.len)) {
            Some(slot) => {
                *slot = progress;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The progress it carries.
    pub fn progress(&self) -> &[Progress] {
        &self.progress[..usize::from(self.len)]
    }

    fn write(&self, out: &mut Writer<'_>) {
        out.u64(self.stamp_us);
        out.u64(self.echo_us);
        out.u16(u16::from(self.len));
        for progress in self.progress() {
            out.u32(progress.group);
            out.u32(progress.channel);
            out.u64(progress.submitted);
            out.u64(progress.completed);
        }
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, PayloadError> {
        let mut ping = Self::new(fields.u64("stamp")?, fields.u64("echo")?);
        for _ in 0..fields.count("progress", PING_PROGRESS_MAX)? {
            let progress = Progress {
                group: fields.u32("progress")?,
                channel: fields.u32("progress")?,
                submitted: fields.u64("progress")?,
                completed: fields.u64("progress")?,
            };
            if progress.completed > progress.submitted {
                return Err(PayloadError::Value {
                    field: "completed operations",
                    value: progress.completed,
                });
            }
            ping.push(progress);
        }
        Ok(ping)
    }
}

/// Why a rank leaves in order. The end of the connection after it is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Goodbye {
    /// The group was shut down or dropped with nothing in flight.
    Finished = 1,
    /// The members are building the next generation of the mesh.
    Rebuilding = 2,
    /// The process ends in order (signal, exit) and may leave operations unfinished.
    Exiting = 3,
}

/// A question about an operation and its answers. The header names the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Describe {
    /// What do you say this operation is?
    Ask,
    /// This.
    Tell(Descriptor),
    /// It is not, or no longer, known here.
    Unknown,
}

/// A message of a control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A sign of life.
    Ping(Ping),
    /// The group is broken.
    Poison(Report),
    /// The sender leaves.
    Goodbye(Goodbye),
    /// About an operation.
    Describe(Describe),
}

/// Which operation of which group a control frame is about, and who sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// The group.
    pub group: u32,
    /// The generation of the mesh.
    pub epoch: u32,
    /// The sender of the frame, who may pass on another's report.
    pub src: Peer,
    /// The channel.
    pub channel: u32,
    /// The operation's number.
    pub seq: u64,
}

impl Message {
    /// The kind of frame it travels in.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Ping(_) => Kind::Ping,
            Self::Poison(_) => Kind::Poison,
            Self::Goodbye(_) => Kind::Goodbye,
            Self::Describe(_) => Kind::Describe,
        }
    }

    /// The whole frame, with a payload CRC: these frames are small and decide over life and death.
    ///
    /// A poison frame is addressed to its report's group and operation; of `address` only the
    /// sender counts.
    pub fn encode(&self, address: Address) -> ControlFrame {
        let mut bytes = [0; CONTROL_FRAME_MAX];
        let mut buffer = [0; CONTROL_PAYLOAD_MAX];
        let payload = self.encode_payload(&mut buffer);
        let address = match self {
            Self::Poison(report) => Address {
                group: report.group,
                epoch: report.epoch,
                src: address.src,
                channel: report.channel,
                seq: report.seq,
            },
            _ => address,
        };
        let header = Header {
            kind: self.kind(),
            flags: Flags::PAYLOAD_CRC,
            group: address.group,
            epoch: address.epoch,
            src: address.src,
            channel: address.channel,
            seq: address.seq,
            xfer_len: payload.len() as u64,
            payload_len: payload.len() as u32,
            ..Header::default()
        };
        let mut out = Writer::new(&mut bytes);
        out.bytes(&header.encode());
        out.bytes(payload);
        out.bytes(&payload_crc(payload));
        let len = out.finish().len();
        ControlFrame { bytes, len }
    }

    /// Reads the payload of a control frame.
    ///
    /// # Errors
    /// [`PayloadError`] if the header announces no control message, or the payload is not the one
    /// it announces.
    pub fn decode(header: &Header, payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = Reader::new(payload);
        let message = match header.kind {
            Kind::Ping => Self::Ping(Ping::read(&mut fields)?),
            Kind::Poison => {
                let report = Report::decode(payload)?;
                check_address(header, &report)?;
                return Ok(Self::Poison(report));
            }
            Kind::Goodbye => Self::Goodbye(match fields.u8("goodbye")? {
                1 => Goodbye::Finished,
                2 => Goodbye::Rebuilding,
                3 => Goodbye::Exiting,
                other => {
                    return Err(PayloadError::Value { field: "goodbye", value: other.into() });
                }
            }),
            Kind::Describe => Self::Describe(match fields.u8("describe")? {
                1 => Describe::Ask,
                2 => Describe::Tell(Descriptor::read(&mut fields)?),
                3 => Describe::Unknown,
                other => {
                    return Err(PayloadError::Value { field: "describe", value: other.into() });
                }
            }),
            kind @ (Kind::Data | Kind::Credit | Kind::Loan | Kind::LoanReturn) => {
                return Err(PayloadError::NotControl { kind });
            }
        };
        fields.end()?;
        Ok(message)
    }

    fn encode_payload<'a>(&self, buffer: &'a mut [u8; CONTROL_PAYLOAD_MAX]) -> &'a [u8] {
        if let Self::Poison(report) = self {
            return report.encode(buffer);
        }
        let mut out = Writer::new(buffer);
        match self {
            Self::Ping(ping) => ping.write(&mut out),
            Self::Poison(_) => {}
            Self::Goodbye(goodbye) => out.u8(*goodbye as u8),
            Self::Describe(Describe::Ask) => out.u8(1),
            Self::Describe(Describe::Tell(descriptor)) => {
                out.u8(2);
                descriptor.write(&mut out);
            }
            Self::Describe(Describe::Unknown) => out.u8(3),
        }
        out.finish()
    }
}

/// A report speaks of the operation its frame is addressed to, so that no layer can be led to
/// poison one group with another's report.
fn check_address(header: &Header, report: &Report) -> Result<(), PayloadError> {
    let pairs = [
        ("group", report.group.into(), u64::from(header.group)),
        ("epoch", report.epoch.into(), header.epoch.into()),
        ("channel", report.channel.into(), header.channel.into()),
        ("sequence", report.seq, header.seq),
    ];
    match pairs.into_iter().find(|(_, in_report, in_header)| in_report != in_header) {
        None => Ok(()),
        Some((field, value, _)) => Err(PayloadError::Value { field, value }),
    }
}

/// The CRC32C trailer of a payload.
pub fn payload_crc(payload: &[u8]) -> [u8; PAYLOAD_CRC_LEN] {
    crc32c::crc32c(payload).to_le_bytes()
}

/// A control frame as it travels, stored inline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFrame {
    bytes: [u8; CONTROL_FRAME_MAX],
    len: usize,
}

impl ControlFrame {
    /// Header, payload and payload CRC.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for ControlFrame {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

// What the encoders write at most, checked when this is compiled.
const DESCRIPTOR_LEN: usize =
    4 + 4 + 3 * 8 + 2 + 8 * crate::limits::SHAPE_MAX + 2 + crate::limits::LABEL_MAX;
const REPORT_LEN: usize = 1
    + 4 * 4
    + 2 * 8
    + (4 + 2 + 4 * crate::limits::CULPRITS_MAX)
    + 2 * (1 + 4 + DESCRIPTOR_LEN)
    + (2 + crate::limits::REPORT_TEXT_MAX);
const PING_LEN: usize = 2 * 8 + 2 + 24 * PING_PROGRESS_MAX;
const _: () = assert!(DESCRIPTOR_LEN <= DESCRIPTOR_MAX);
const _: () = assert!(REPORT_LEN <= CONTROL_PAYLOAD_MAX && PING_LEN <= CONTROL_PAYLOAD_MAX);
const _: () = assert!(CONTROL_FRAME_MAX == HEADER_LEN + CONTROL_PAYLOAD_MAX + PAYLOAD_CRC_LEN);
