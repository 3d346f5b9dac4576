//! How the ranks of a host come to share memory, once the network's mesh stands: one call that every rank makes.
//!
//! Ranks tell each other three things through an [`Exchange`]: the name of their socket, whom they have reached, and with whom
//! they have swapped memory. So each knows which pairs share memory, and whether all do: a pair is one if both say so, and
//! the board is for all ranks, or for nobody.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use allhands_transport::Links;
use allhands_transport::tcp::{Membership, TcpControl, TcpLinks};
use allhands_wire::Peer;

use crate::arena::Arena;
use crate::board::Board;
use crate::layout::{Layout, WORLD_MAX};
use crate::links::{HostLink, HostLinks};
use crate::meet::{Door, HostPeer, MeetError, NAME_LEN, Name, Offer};
use crate::ring;
use crate::segment::{OwnSegment, SEGMENT_MAX, SegmentError};
use crate::wake::{Barrier, Bells, Knocker, event};

/// The shortest arena, where the host does not say how much memory it has.
const ARENA_MIN: usize = 1 << 30;

/// Address space of all arenas of a host together: half of what a process has.
const ARENAS_MAX: usize = 1 << 46;

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

/// Why this rank has no memory to share.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// There are too many ranks.
    #[error("{world} ranks are too many to share memory, {limit} are the most")]
    World {
        /// Ranks of the mesh.
        world: u32,
        /// The most ranks that share memory.
        limit: u32,
    },
    /// There is no segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// There is no event to sleep on.
    #[error("cannot make an event: {source}")]
    Event {
        /// What the system said.
        source: io::Error,
    },
    /// There is no socket for the others to come to.
    #[error(transparent)]
    Socket(#[from] MeetError),
}

/// Why the ranks of a mesh do not even know who shares memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError<E: std::error::Error + 'static> {
    /// They cannot tell each other.
    #[error(transparent)]
    Exchange(E),
    /// The system lets nobody wait for an event, while others count on this rank to be woken by one.
    #[error("cannot watch an event: {source}")]
    Watch {
        /// What the system said.
        source: io::Error,
    },
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
    fn nothing(links: TcpLinks) -> Self {
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
    let mine = prepared.as_ref().map_or(Vec::new(), |prepared| prepared.door.name().to_vec());
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
struct Meeting<'a, E> {
    exchange: &'a mut E,
    membership: &'a Membership,
    session: Name,
    deadline: Instant,
}

/// A row of bits for each rank, as that rank told it.
struct Matrix(Vec<Vec<u8>>);

impl Matrix {
    fn has(&self, row: usize, rank: usize) -> bool {
        self.0.get(row).and_then(|row| row.get(rank)) == Some(&1)
    }

    /// Whether two ranks say so of each other.
    fn pair(&self, a: usize, b: usize) -> bool {
        a == b || (self.has(a, b) && self.has(b, a))
    }
}

impl<E: Exchange> Meeting<'_, E> {
    fn tell_reached(&mut self, mine: &[u8]) -> Result<Matrix, ShareError<E::Error>> {
        self.tell(Round::Reached { session: self.session }, mine)
    }

    fn tell_swapped(&mut self, mine: &[u8]) -> Result<Matrix, ShareError<E::Error>> {
        self.tell(Round::Swapped { session: self.session }, mine)
    }

    fn tell(&mut self, round: Round, mine: &[u8]) -> Result<Matrix, ShareError<E::Error>> {
        self.exchange.all_gather(round, mine).map(Matrix).map_err(ShareError::Exchange)
    }
}

/// A door that is open, and what this rank offers there.
struct Prepared {
    door: Door,
    layout: Layout,
    offer: Offer,
    arena: Option<Arc<Arena>>,
}

/// Address space of an arena: as much as the host has memory. What is not used costs nothing.
///
/// Every rank maps the arenas of all, which must fit its address space together.
fn arena_len(world: u32) -> usize {
    let info = rustix::system::sysinfo();
    let bytes = u64::from(info.mem_unit).saturating_mul(info.totalram);
    let share = (ARENAS_MAX / world as usize).min(SEGMENT_MAX);
    usize::try_from(bytes).unwrap_or(share).clamp(ARENA_MIN, share)
}

impl Prepared {
    /// Opens a door, if this rank has memory to share.
    fn open(world: u32) -> Result<Self, Unavailable> {
        let layout = Layout::new(world).ok_or(Unavailable::World { world, limit: WORLD_MAX })?;
        let segment = Arc::new(OwnSegment::create(layout.segment_len())?);
        let event = || event().map_err(|source| Unavailable::Event { source });
        let (bell, knocker) = (event()?, event()?);
        let door = Door::open()?;
        // Without an arena everything is copied, which always works.
        let arena = Arena::new(arena_len(world)).ok();
        let shared = arena.as_ref().map(|arena| arena.segment().clone());
        let offer = Offer { segment, bell, knocker, barrier: Barrier::register(), arena: shared };
        Ok(Self { door, layout, offer, arena })
    }

    fn share<E: Exchange>(
        self,
        meeting: &mut Meeting<'_, E>,
        names: &[Option<Name>],
        links: TcpLinks,
        control: &TcpControl,
    ) -> Result<Shared, ShareError<E::Error>> {
        let Membership { me, world, .. } = *meeting.membership;
        let ranks = 0..world as usize;
        let reached = self.door.reach(names, me);
        let mut bits: Vec<u8> = reached.iter().map(|stream| u8::from(stream.is_some())).collect();
        bits.resize(world as usize, 0);
        let told = meeting.tell_reached(&bits)?;
        let reached_by: Vec<bool> = ranks.clone().map(|rank| told.has(rank, me.index())).collect();
        let Meeting { membership, deadline, .. } = *meeting;
        let (layout, offer) = (self.layout, &self.offer);
        let met = self.door.meet(membership, layout, offer, reached, &reached_by, deadline);
        let mut failed = Vec::new();
        let swapped = met.into_iter().map(|met| met?.map_err(|error| failed.push(error)).ok());
        let mut peers: Vec<Option<HostPeer>> = swapped.collect();
        let bits: Vec<u8> = peers.iter().map(|peer| u8::from(peer.is_some())).collect();
        let told = meeting.tell_swapped(&bits)?;
        for (rank, peer) in peers.iter_mut().enumerate() {
            *peer = peer.take().filter(|_| told.pair(me.index(), rank));
        }
        let all = world > 1 && ranks.clone().all(|a| ranks.clone().all(|b| told.pair(a, b)));
        if peers.iter().all(Option::is_none) {
            return Ok(Shared { failed, ..Shared::nothing(links) });
        }
        let Offer { bell, knocker, .. } = &self.offer;
        links
            .watch(bell.as_fd())
            .and_then(|()| control.watch(knocker.as_fd()))
            .map_err(|source| ShareError::Watch { source })?;
        let sharing = self.join(me, peers, links, if all { Sharing::All } else { Sharing::Some });
        Ok(Shared { failed, ..sharing })
    }

    /// Puts rings over the links, and a board beside them if all ranks share memory.
    fn join(
        self,
        me: Peer,
        peers: Vec<Option<HostPeer>>,
        links: TcpLinks,
        sharing: Sharing,
    ) -> Shared {
        let Self { layout, offer, arena, .. } = self;
        let Offer { segment, bell, knocker, barrier, .. } = offer;
        let (mut hosts, mut bells) = (Vec::new(), Vec::new());
        let (mut segments, mut arenas) = (Vec::new(), Vec::new());
        let mut ranks = 1;
        for (rank, peer) in peers.into_iter().enumerate() {
            ranks += u32::from(peer.is_some());
            let (host, bell, theirs, arena) = match peer {
                Some(HostPeer { segment: theirs, bell, process, arena }) => {
                    let (writer, reader) = ring::ends(layout, &segment, me.index(), &theirs, rank);
                    let host = HostLink { writer, reader, process };
                    (Some(host), Some(bell), Some(theirs), arena)
                }
                None => (None, None, None, None),
            };
            hosts.push(host);
            bells.push(bell);
            segments.push(theirs);
            arenas.push(arena);
        }
        let bells = Arc::new(Bells::new(layout, segment.clone(), bell, barrier, bells));
        let board = (sharing == Sharing::All).then(|| {
            let mut board =
                Board::new(segment, segments, me.index(), layout.board_at(), bells.clone());
            if let Some(arena) = &arena {
                board.set_arena(arena.clone());
            }
            for (rank, theirs) in arenas.into_iter().enumerate() {
                if let Some(theirs) = theirs {
                    board.add_arena(rank, theirs);
                }
            }
            board
        });
        // Only a board has a use for it.
        let arena = arena.filter(|_| board.is_some());
        let links = Box::new(HostLinks::new(Box::new(links), hosts, bells, Knocker(knocker)));
        Shared { links, board, arena, ranks, unavailable: None, failed: Vec::new() }
    }
}

/// Whether every pair of ranks shares memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    All,
    Some,
}
