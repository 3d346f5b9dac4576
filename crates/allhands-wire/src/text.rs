use std::fmt;

/// Text of at most `N` bytes, stored inline.
///
/// It travels between machines and ends in logs, so it holds no control characters: a peer cannot
/// forge a log line. No heap is used.
///
/// ```
/// use allhands_wire::Text;
///
/// let label: Text<8> = Text::new("step\n1 äö");
/// assert_eq!(label.as_str(), "step 1 "); // the cut falls between characters
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u16,
}

impl<const N: usize> Text<N> {
    const FITS: () = assert!(N <= u16::MAX as usize, "a text's length is stored in 16 bits");

    /// Copies as many whole characters of `text` as fit; control characters become spaces.
    pub fn new(text: &str) -> Self {
        let () = Self::FITS;
        let mut bytes = [0; N];
        let mut len = 0;
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if len + c.len_utf8() > N {
                break;
            }
            len += c.encode_utf8(&mut bytes[len..]).len();
        }
        Self { bytes, len: len as u16 }
    }

    /// Takes bytes off the wire; `None` if they are too many, not UTF-8 or not printable.
    pub(crate) fn from_wire(wire: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(wire).ok()?;
        if wire.len() > N || text.chars().any(char::is_control) {
            return None;
        }
        Some(Self::new(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Both constructors copy whole characters, so the default is never taken.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
