use crate::error::FrameError;
use crate::header::{Flags, Header, Lane};
use crate::limits::{CONTROL_PAYLOAD_MAX, HEADER_LEN, PAYLOAD_CAP, PAYLOAD_CRC_LEN};

/// One whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload, whose CRC, if it had one, was right.
    pub payload: &'a [u8],
}

/// Cuts a stream of bytes into frames, however the bytes are split.
///
/// All memory is taken at construction, from this side's own limit; a length on the wire only
/// ever chooses a part of it. Made for control connections. Data connections land payloads
/// directly in posted buffers and need only [`Header::decode`].
///
/// ```
/// use allhands_wire::{Address, FrameDecoder, Goodbye, Message};
///
/// let sent = Message::Goodbye(Goodbye::Finished).encode(Address::default());
/// let mut decoder = FrameDecoder::control();
/// for byte in sent.as_bytes() {
///     assert!(decoder.poll_frame().is_none());
///     decoder.handle_bytes(&[*byte])?;
/// }
/// let frame = decoder.poll_frame().expect("all bytes are in");
/// let message = Message::decode(&frame.header, frame.payload)?;
/// assert_eq!(message, Message::Goodbye(Goodbye::Finished));
/// # Ok::<(), allhands_wire::WireError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    lane: Lane,
    payload_max: u32,
    buffer: Box<[u8]>,
    len: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Header,
    Body(Header),
    Whole(Header),
    Failed(FrameError),
}

impl FrameDecoder {
    /// A decoder for a control connection: about 1 KiB.
    pub fn control() -> Self {
        Self::new(Lane::Control, CONTROL_PAYLOAD_MAX as u32)
    }

    /// A decoder for a data connection that takes payloads up to `payload_max` bytes, and never
    /// above [`PAYLOAD_CAP`]. It allocates that much.
    pub fn data(payload_max: u32) -> Self {
        Self::new(Lane::Data, payload_max.min(PAYLOAD_CAP))
    }

    fn new(lane: Lane, payload_max: u32) -> Self {
        let size = HEADER_LEN + payload_max as usize + PAYLOAD_CRC_LEN;
        Self {
            lane,
            payload_max,
            buffer: vec![0; size].into_boxed_slice(),
            len: 0,
            stage: Stage::Header,
        }
    }

    /// Takes bytes up to the end of one frame and returns how many it took.
    ///
    /// While a frame waits for [`poll_frame`](Self::poll_frame) it takes none.
    ///
    /// # Errors
    /// [`FrameError`] once the stream cannot be read on, and the same one ever after: close the
    /// connection.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut taken = 0;
        loop {
            let target = match self.stage {
                Stage::Header => HEADER_LEN,
                Stage::Body(header) => header.frame_len(),
                Stage::Whole(_) => return Ok(taken),
                Stage::Failed(error) => return Err(error),
            };
            let part = (bytes.len() - taken).min(target - self.len);
            self.buffer[self.len..self.len + part].copy_from_slice(&bytes[taken..taken + part]);
            self.len += part;
            taken += part;
            if self.len < target {
                return Ok(taken);
            }
            self.stage = match self.advance() {
                Ok(stage) => stage,
                Err(error) => Stage::Failed(error),
            };
        }
    }

    /// The frame that is complete, if there is one. Asking for it makes room for the next.
    pub fn poll_frame(&mut self) -> Option<Frame<'_>> {
        let Stage::Whole(header) = self.stage else { return None };
        self.stage = Stage::Header;
        self.len = 0;
        let end = HEADER_LEN + header.payload_len as usize;
        Some(Frame { header, payload: &self.buffer[HEADER_LEN..end] })
    }

    /// Whether the stream is between two frames, where its end is no loss.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.stage, Stage::Header) && self.len == 0
    }

    fn advance(&self) -> Result<Stage, FrameError> {
        match (self.stage, self.buffer.first_chunk::<HEADER_LEN>()) {
            (Stage::Header, Some(bytes)) => {
                let header = Header::decode(bytes)?;
                let kind = header.kind;
                if !header.belongs_on(self.lane) {
                    return Err(FrameError::WrongLane { kind, lane: self.lane });
                }
                if header.payload_len > self.payload_max {
                    let (len, limit) = (header.payload_len, self.payload_max);
                    return Err(FrameError::PayloadTooLong { kind, len, limit });
                }
                Ok(Stage::Body(header))
            }
            (Stage::Body(header), _) => {
                self.check_payload(&header)?;
                Ok(Stage::Whole(header))
            }
            (stage, _) => Ok(stage),
        }
    }

    fn check_payload(&self, header: &Header) -> Result<(), FrameError> {
        if !header.flags.contains(Flags::PAYLOAD_CRC) {
            return Ok(());
        }
        let (payload, trailer) =
            self.buffer[HEADER_LEN..header.frame_len()].split_at(header.payload_len as usize);
        let sent = trailer.iter().rev().fold(0, |crc, &byte| crc << 8 | u32::from(byte));
        let computed = crc32c::crc32c(payload);
        if sent == computed {
            Ok(())
        } else {
            Err(FrameError::PayloadChecksum { kind: header.kind, sent, computed })
        }
    }
}
