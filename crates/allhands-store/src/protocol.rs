//! Numbers of PyTorch's TCPStore protocol. All integers travel little-endian, without padding.

/// Follows the VALIDATE byte.
pub(crate) const MAGIC: u32 = 0x3C85_F7CE;

/// The counter on which clients with a world size announce themselves. It has no leading `/`.
pub(crate) const INIT_KEY: &[u8] = b"init/";

/// Clients put this before every key.
pub(crate) const KEY_PREFIX: u8 = b'/';

/// Answers to CHECK.
pub(crate) const READY: u8 = 0;
pub(crate) const NOT_READY: u8 = 1;

/// Answers to WAIT and BARRIER.
pub(crate) const STOP_WAITING: u8 = 0;
pub(crate) const WAIT_CANCELED: u8 = 1;

macro_rules! opcodes {
    ($($name:ident = $code:literal,)*) => {
        /// The first byte of every request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Opcode { $($name = $code,)* }

        impl Opcode {
            pub(crate) fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Validate = 0x00,
    Set = 0x01,
    CompareSet = 0x02,
    Get = 0x03,
    Add = 0x04,
    Check = 0x05,
    Wait = 0x06,
    NumKeys = 0x07,
    DeleteKey = 0x08,
    Append = 0x09,
    MultiGet = 0x0a,
    MultiSet = 0x0b,
    CancelWait = 0x0c,
    Ping = 0x0d,
    QueuePush = 0x0e,
    QueuePop = 0x0f,
    QueueLen = 0x10,
    ListKeys = 0x11,
    Barrier = 0x12,
}
