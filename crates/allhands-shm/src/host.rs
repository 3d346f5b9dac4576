//! How the ranks of a host come to share memory, once the network's mesh stands: one call that every rank makes.
//!
//! Ranks tell each other three things through an [`Exchange`]: the name of their socket, whom they have reached, and with whom
//! they have swapped memory. So each knows which pairs share memory, and whether all do: a pair is one if both say so, and
//! the board is for all ranks, or for nobody.

use std::sync::Arc;
use std::time::Instant;

use allhands_transport::Links;
use allhands_transport::tcp::{Membership, TcpControl, TcpLinks};

use crate::arena::Arena;
use crate::board::Board;
pub use crate::error::{MeetError, ShareError, Unavailable};
use crate::prepared::Prepared;

/// Bytes of a listener's name.
pub const NAME_LEN: usize = 16;

/// A listener's name, to be told to the other ranks.
pub type Name = [u8; NAME_LEN];

/// What every rank tells all others, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The name of its socket; nothing from a rank that has no memory to share.
    Names,
    /// Whom it has reached: a byte a rank.
    Reached {
        /// The first name that was told: what belongs to this meeting, and not to one before or after it.
        session: Name,
    },
    /// With whom it has swapped memory: a byte a rank.
    Swapped {
        /// As in [`Round::Reached`].
        session: Name,
    },
}

/// Through what the ranks of a mesh tell each other a few bytes.
pub trait Exchange {
    /// Why they cannot.
    type Error: std::error::Error + 'static;

    /// Gives `mine` to all ranks, and returns what each gave, in rank order, this one included.
    ///
    /// # Errors
    /// A rank does not come, or what they tell each other by fails.
    fn all_gather(&mut self, round: Round, mine: &[u8]) -> Result<Vec<Vec<u8>>, Self::Error>;
}

/// What ranks that looked for each other have.
pub struct Shared {
    /// Links to all ranks: through rings to those that share memory, over the network to the others.
    pub links: Box<dyn Links>,
    /// The boards, if all ranks share memory.
    pub board: Option<Board>,
    /// This rank's memory for tensors that the others read in place, if there are boards.
    pub arena: Option<Arc<Arena>>,
    /// Ranks that share memory with this one, itself included.
    pub ranks: u32,
    /// Why this rank has none.
    pub unavailable: Option<Unavailable>,
    /// Why it is not shared with ranks that were reached.
    pub failed: Vec<MeetError>,
}

impl Shared {
    pub(crate) fn nothing(links: TcpLinks) -> Self {
        let (unavailable, failed) = (None, Vec::new());
        Self { links: Box::new(links), board: None, arena: None, ranks: 1, unavailable, failed }
    }
}

/// Finds the ranks of this host and swaps memory with them. `links` are the network's; they come back, alone or below the
/// rings. Every rank of the mesh calls this, with memory or without.
///
/// What does not work out between two ranks fails nothing: the network stays theirs, and [`Shared`] says why.
///
/// # Errors
/// See [`ShareError`].
pub fn share<E: Exchange>(
    exchange: &mut E,
    membership: &Membership,
    links: TcpLinks,
    control: &TcpControl,
    deadline: Instant,
) -> Result<Shared, ShareError<E::Error>> {
    let prepared = Prepared::open(membership.world);
    let mine = prepared.as_ref().map_or(Vec::new(), |prepared| prepared.name().to_vec());
    let names = exchange.all_gather(Round::Names, &mine).map_err(ShareError::Exchange)?;
    let names: Vec<Option<Name>> =
        names.iter().map(|name| Name::try_from(name.as_slice()).ok()).collect();
    let session = names.iter().flatten().next().copied().unwrap_or([0; NAME_LEN]);
    let mut meeting = Meeting { exchange, membership, session, deadline };
    match prepared {
        Ok(prepared) => prepared.share(&mut meeting, &names, links, control),
        Err(unavailable) => {
            let nobody = vec![0; membership.world as usize];
            meeting.tell_reached(&nobody)?;
            meeting.tell_swapped(&nobody)?;
            Ok(Shared { unavailable: Some(unavailable), ..Shared::nothing(links) })
        }
    }
}

/// Ranks that tell each other whom they have found.
pub(crate) struct Meeting<'a, E> {
    exchange: &'a mut E,
    pub(crate) membership: &'a Membership,
    session: Name,
    pub(crate) deadline: Instant,
}

/// A row of bits for each rank, as that rank told it.
pub(crate) struct Matrix(Vec<Vec<u8>>);

impl Matrix {
    pub(crate) fn has(&self, row: usize, rank: usize) -> bool {
        self.0.get(row).and_then(|row| row.get(rank)) == Some(&1)
    }

    /// Whether two ranks say so of each other.
    pub(crate) fn pair(&self, a: usize, b: usize) -> bool {
        a == b || (self.has(a, b) && self.has(b, a))
    }
}

impl<E: Exchange> Meeting<'_, E> {
    pub(crate) fn tell_reached(&mut self, mine: &[u8]) -> Result<Matrix, ShareError<E::Error>> {
        self.tell(Round::Reached { session: self.session }, mine)
    }

    pub(crate) fn tell_swapped(&mut self, mine: &[u8]) -> Result<Matrix, ShareError<E::Error>> {
        self.tell(Round::Swapped { session: self.session }, mine)
    }

    fn tell(&mut self, round: Round, mine: &[u8]) -> Result<Matrix, ShareError<E::Error>> {
        self.exchange.all_gather(round, mine).map(Matrix).map_err(ShareError::Exchange)
    }
}
