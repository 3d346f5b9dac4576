//! Every bound of the engine, by name.

use std::time::Duration;

/// Bounds and sizes of one engine. All ranks of a job use the same.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Payload bytes of one data frame. Smaller frames share a connection more fairly, larger ones cost
    /// fewer headers. At most [`allhands_wire::PAYLOAD_MAX`], and a multiple of 64.
    pub frame_payload: usize,
    /// Bytes that may be under way to one peer for operations that it has not submitted, as far as this
    /// rank knows. The peer's pool for early frames has this size. Point-to-point messages have a window
    /// of their own, of the same size.
    pub eager_window: usize,
    /// Bytes of one message that may be sent before the peer is known to have submitted its operation.
    pub eager_per_operation: usize,
    /// How long a group in failure waits for a better explanation before its operations end.
    pub settle: Duration,
    /// How long a mismatch waits for the other side's description before it is reported without.
    pub describe: Duration,
    /// How long an operation waits before peers are asked how far they are.
    pub probe_after: Duration,
    /// Shortest message worth a loan; shorter ones travel as bytes.
    pub loan_min: usize,
}

impl Config {
    /// The same, made to fit what the protocol needs: whole units of at least one, not above the frame
    /// limit of the wire, and a window that a few frames do not fill.
    #[must_use]
    pub fn sound(mut self) -> Self {
        let unit = allhands_wire::OFFSET_UNIT as usize;
        let most = allhands_wire::PAYLOAD_MAX as usize;
        self.frame_payload = self.frame_payload.clamp(unit, most) / unit * unit;
        self.eager_window = self.eager_window.max(EAGER_WINDOW_MIN);
        self.eager_per_operation = self.eager_per_operation.max(unit);
        self
    }

    /// The values used everywhere unless a test wants smaller ones.
    pub const DEFAULT: Self = Self {
        frame_payload: 256 << 10,
        eager_window: 4 << 20,
        eager_per_operation: 64 << 10,
        settle: Duration::from_millis(20),
        describe: Duration::from_millis(100),
        probe_after: Duration::from_millis(50),
        loan_min: 4 << 10,
    };
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The smallest window in which credit can never run dry on both sides: three quarters of it, less a frame,
/// are more than half of it.
const EAGER_WINDOW_MIN: usize = 2048;

/// What a frame costs in a window beyond its payload, so that many tiny frames are bounded too.
pub(crate) const FRAME_OVERHEAD: usize = 256;

/// Frames that are encoded ahead for one peer; more only delays what is urgent.
pub(crate) const FRAMES_AHEAD: usize = 8;

/// Payload bytes that are framed ahead for one peer.
pub(crate) const BYTES_AHEAD: usize = 1 << 20;

/// Shortest stretch of a payload that a link reads straight into its destination.
pub(crate) const DIRECT_MIN: usize = 4 << 10;

/// Finished operations of one channel whose fingerprints are kept, so that a frame that comes too late
/// to be used still shows a mismatch.
pub(crate) const HISTORY: usize = 64;

/// Messages for control connections that wait to be taken. Reports of failure have room beyond: at most one
/// for each member of each group.
pub(crate) const CONTROLS_MAX: usize = 1024;

/// Point-to-point messages to one peer that may be announced and not yet granted.
pub(crate) const POINT_ANNOUNCED_MAX: usize = 4096;

/// How much longer a group settles while the control connection of a peer that it would blame still
/// stands: both connections of a process that ends are gone within milliseconds.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(60);

/// Channels of one group.
pub(crate) const CHANNELS_MAX: usize = 4096;

/// Operations in flight on one channel.
pub(crate) const IN_FLIGHT_MAX: usize = 65_536;
