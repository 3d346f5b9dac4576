//! What a rank brings to its host, and what comes of it.

use std::os::fd::AsFd;
use std::sync::Arc;

use allhands_transport::tcp::{Membership, TcpControl, TcpLinks};
use allhands_wire::Peer;

use crate::arena::Arena;
use crate::board::Board;
use crate::error::{ShareError, Unavailable};
use crate::host::{Exchange, Meeting, Name, Shared};
use crate::layout::{Layout, WORLD_MAX};
use crate::links::{HostLink, HostLinks};
use crate::meet::{HostPeer, Listener, Offer, dial};
use crate::ring;
use crate::segment::{OwnSegment, SEGMENT_MAX};
use crate::wake::{Barrier, ProgressEvent, Wakers, event};

/// The shortest arena, where the host does not say how much memory it has.
const ARENA_MIN: usize = 1 << 30;

/// Address space of all arenas of a host together: half of what a process has.
const ARENAS_MAX: usize = 1 << 46;

/// A listener, and what this rank offers there.
pub(crate) struct Prepared {
    listener: Listener,
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
    /// Listens, if this rank has memory to share.
    pub(crate) fn open(world: u32) -> Result<Self, Unavailable> {
        let layout = Layout::new(world).ok_or(Unavailable::World { world, limit: WORLD_MAX })?;
        let segment = Arc::new(OwnSegment::create(layout.segment_len())?);
        let event = || event().map_err(|source| Unavailable::Event { source });
        let (wake, progress) = (event()?, event()?);
        let listener = Listener::open()?;
        // Without an arena everything is copied, which always works.
        let arena = Arena::new(arena_len(world)).ok();
        let shared = arena.as_ref().map(|arena| arena.segment().clone());
        let offer = Offer { segment, wake, progress, barrier: Barrier::register(), arena: shared };
        Ok(Self { listener, layout, offer, arena })
    }

    /// Where others come.
    pub(crate) fn name(&self) -> Name {
        self.listener.name()
    }

    /// Meets the ranks of this host whose names are told, and uses their memory.
    pub(crate) fn share<E: Exchange>(
        self,
        meeting: &mut Meeting<'_, E>,
        names: &[Option<Name>],
        links: TcpLinks,
        control: &TcpControl,
    ) -> Result<Shared, ShareError<E::Error>> {
        let Membership { me, world, .. } = *meeting.membership;
        let ranks = 0..world as usize;
        let reached = dial(names, me);
        let mut bits: Vec<u8> = reached.iter().map(|stream| u8::from(stream.is_some())).collect();
        bits.resize(world as usize, 0);
        let told = meeting.tell_reached(&bits)?;
        let reached_by: Vec<bool> = ranks.clone().map(|rank| told.has(rank, me.index())).collect();
        let Meeting { membership, deadline, .. } = *meeting;
        let (layout, offer) = (self.layout, &self.offer);
        let met = self.listener.meet(membership, layout, offer, reached, &reached_by, deadline);
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
        let Offer { wake, progress, .. } = &self.offer;
        links
            .watch(wake.as_fd())
            .and_then(|()| control.watch(progress.as_fd()))
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
        let Offer { segment, wake, progress, barrier, .. } = offer;
        let (mut hosts, mut wakers) = (Vec::new(), Vec::new());
        let (mut segments, mut arenas) = (Vec::new(), Vec::new());
        let mut ranks = 1;
        for (rank, peer) in peers.into_iter().enumerate() {
            ranks += u32::from(peer.is_some());
            let (host, waker, theirs, arena) = match peer {
                Some(HostPeer { segment: theirs, waker, process, arena }) => {
                    let (writer, reader) = ring::ends(layout, &segment, me.index(), &theirs, rank);
                    let host = HostLink { writer, reader, process };
                    (Some(host), Some(waker), Some(theirs), arena)
                }
                None => (None, None, None, None),
            };
            hosts.push(host);
            wakers.push(waker);
            segments.push(theirs);
            arenas.push(arena);
        }
        let wakers = Arc::new(Wakers::new(layout, segment.clone(), wake, barrier, wakers));
        let board = (sharing == Sharing::All).then(|| {
            let mut board =
                Board::new(segment, segments, me.index(), layout.board_at(), wakers.clone());
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
        let links =
            Box::new(HostLinks::new(Box::new(links), hosts, wakers, ProgressEvent(progress)));
        Shared { links, board, arena, ranks, unavailable: None, failed: Vec::new() }
    }
}

/// Whether every pair of ranks shares memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    All,
    Some,
}
