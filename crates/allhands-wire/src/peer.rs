use std::fmt;

/// Position of a process in the mesh, counted from 0.
///
/// A group made by splitting numbers its own members; a `Peer` is what the connections know. It is
/// a type of its own so that neither a group rank nor a byte count slips into its place.
///
/// ```
/// use allhands_wire::Peer;
///
/// assert_eq!(Peer(3).to_string(), "peer 3");
/// assert_eq!(Peer(3).index(), 3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u32);

impl Peer {
    /// The position as an index into a table with one entry a peer.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}
