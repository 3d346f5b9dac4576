//! Ranks of one host agree to share memory, once their mesh stands.
//!
//! What does not work out between two ranks is told in the log, and goes over the network. What fails a group is a store
//! that fails, ranks that do not come, and a system that lets nobody wait for an event.

use std::os::fd::AsFd;
use std::sync::{Arc, Once};
use std::time::Instant;

use allhands_collectives::Board;
use allhands_shm::arena::ArenaError;
use allhands_shm::layout::Layout;
use allhands_shm::links::{HostLink, HostLinks};
use allhands_shm::meet::{Door, HostPeer, Name, Offer};
use allhands_shm::ring;
use allhands_shm::segment::{OwnSegment, SEGMENT_MAX};
use allhands_shm::wake::{Barrier, Bells, Knocker, event};
use allhands_store::{Store, StoreError};
use allhands_tensor::{DType, Tensor, TensorError};
use allhands_transport::tcp::{Membership, TcpControl, TcpLinks};

pub(crate) use allhands_shm::arena::Arena;

use crate::error::Error;
use crate::group::{Joined, Meeting};

/// The shortest arena, where the host does not say how much memory it has.
const ARENA_MIN: usize = 1 << 30;

/// Address space of all arenas of a host together: half of what a process has.
const ARENAS_MAX: usize = 1 << 46;

/// A door that was opened before the mesh was formed, and what this rank will offer there.
pub(crate) struct Prepared {
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

/// A tensor in an arena, or on the heap if there is no room.
pub(crate) fn alloc(
    arena: &Arc<Arena>,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, TensorError> {
    static TOLD: Once = Once::new();
    match arena.tensor(dtype, shape) {
        Ok(tensor) => Ok(tensor),
        Err(ArenaError::Shape(error)) => Err(error),
        Err(error) => {
            TOLD.call_once(
                || tracing::warn!(%error, "tensors come from the heap: peers get copies of them"),
            );
            Tensor::try_zeros(dtype, shape)
        }
    }
}

/// Opens a door, if this rank has memory to share. Its reason, if not.
fn open(world_size: u32) -> Result<Prepared, String> {
    let layout = Layout::new(world_size)
        .ok_or_else(|| format!("{world_size} ranks are too many to share memory"))?;
    let segment = OwnSegment::create(layout.segment_len()).map_err(|e| e.to_string())?;
    let bell = event().map_err(|e| e.to_string())?;
    let knocker = event().map_err(|e| e.to_string())?;
    let door = Door::open().map_err(|e| e.to_string())?;
    let (segment, barrier) = (Arc::new(segment), Barrier::register());
    // Without an arena everything is copied, which always works.
    let arena = Arena::new(arena_len(world_size)).ok();
    let shared = arena.as_ref().map(|arena| arena.segment().clone());
    let offer = Offer { segment, bell, knocker, barrier, arena: shared };
    Ok(Prepared { door, layout, offer, arena })
}

/// Finds the ranks of this host and swaps memory with them. `links` are the network's; they come back, alone or below
/// the rings. `on_host` ranks have this one's address. Every rank of the mesh calls this, with memory or without.
///
/// # Errors
/// The store fails, or ranks do not come in time.
pub(crate) fn share(
    meeting: &Meeting,
    membership: &Membership,
    links: TcpLinks,
    control: &TcpControl,
    on_host: u32,
    deadline: Instant,
) -> Result<Joined, Error> {
    let Membership { me, world, .. } = *membership;
    let prepared = match open(world) {
        Ok(prepared) => Some(prepared),
        Err(reason) => {
            tracing::warn!(reason, "no shared memory: ranks of this host use the network");
            None
        }
    };
    let mine = prepared.as_ref().map_or(Vec::new(), |p| p.door.name().to_vec());
    let doors = meeting.all("door", &mine)?;
    let names: Vec<Option<Name>> =
        doors.iter().map(|name| Name::try_from(name.as_slice()).ok()).collect();
    // What follows belongs to this meeting, and not to one of the same name before or after it.
    let first = doors.iter().find(|door| !door.is_empty());
    let room = meeting.within(&hex(first.map_or(&[], |door| door.as_slice())));
    let (hall, meeting) = (meeting, room);
    let Some(prepared) = prepared else {
        let nobody = vec![0; world as usize];
        meeting.all("reach", &nobody)?;
        hall.leave("door");
        meeting.all("met", &nobody)?;
        meeting.forget(["reach", "met"], world)?;
        return Ok(Joined::over(Box::new(links), on_host));
    };
    let Prepared { door, layout, offer, arena } = prepared;
    let reached = door.reach(&names, me);
    let mut bits: Vec<u8> = reached.iter().map(|stream| u8::from(stream.is_some())).collect();
    bits.resize(world as usize, 0);
    let matrix = meeting.all("reach", &bits)?;
    // Everybody has read the doors; the next meeting must not.
    hall.leave("door");
    let has = |row: &[u8], rank: usize| row.get(rank) == Some(&1);
    let me = me.index();
    let reached_by: Vec<bool> = matrix.iter().map(|row| has(row, me)).collect();
    let results = door.meet(membership, layout, &offer, reached, &reached_by, deadline);
    let mut peers: Vec<Option<HostPeer>> = Vec::new();
    for result in results {
        peers.push(match result {
            Some(Ok(peer)) => Some(peer),
            Some(Err(error)) => {
                tracing::warn!(%error, "no shared memory with a rank of this host: it uses the network");
                None
            }
            None => None,
        });
    }
    let bits: Vec<u8> = peers.iter().map(|peer| u8::from(peer.is_some())).collect();
    let matrix = meeting.all("met", &bits)?;
    meeting.forget(["reach", "met"], world)?;
    // A pair is one if both say so; the board is for all, or for nobody.
    for (rank, peer) in peers.iter_mut().enumerate() {
        if !has(&matrix[rank], me) {
            *peer = None;
        }
    }
    let pair = |a: usize, b: usize| a == b || (has(&matrix[a], b) && has(&matrix[b], a));
    let ranks = 0..world as usize;
    let complete = world > 1 && ranks.clone().all(|a| ranks.clone().all(|b| pair(a, b)));
    let sharing = 1 + peers.iter().flatten().count() as u32;
    if sharing == 1 {
        return Ok(Joined::over(Box::new(links), on_host));
    }
    let watched =
        links.watch(offer.bell.as_fd()).and_then(|()| control.watch(offer.knocker.as_fd()));
    watched
        .map_err(|error| Error::System { what: "to watch an event", reason: error.to_string() })?;
    let Offer { segment, bell, knocker, barrier, .. } = offer;
    let mut hosts = Vec::new();
    let mut bells = Vec::new();
    let mut segments = Vec::new();
    let mut arenas = Vec::new();
    for (rank, peer) in peers.into_iter().enumerate() {
        let Some(HostPeer { segment: theirs, bell, process, arena }) = peer else {
            hosts.push(None);
            bells.push(None);
            segments.push(None);
            arenas.push(None);
            continue;
        };
        let (writer, reader) = ring::ends(layout, &segment, me, &theirs, rank);
        hosts.push(Some(HostLink { writer, reader, process }));
        bells.push(Some(bell));
        segments.push(Some(theirs));
        arenas.push(arena);
    }
    let bells = Arc::new(Bells::new(layout, segment.clone(), bell, barrier, bells));
    let board = complete.then(|| {
        let mut board = Board::new(segment, segments, me, layout.board_at(), bells.clone());
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
    tracing::info!(ranks = sharing, of = world, board = complete, "sharing memory on this host");
    let links = HostLinks::new(Box::new(links), hosts, bells, Knocker(knocker));
    Ok(Joined { links: Box::new(links), board, arena, on_host: on_host.max(sharing) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Meeting {
    /// Publishes `mine` under `what` and collects everybody's, in rank order.
    fn all(&self, what: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let key = |rank: u32| format!("{what}/{rank}");
        // A store may not take an empty value for one.
        let mut value = vec![1];
        value.extend_from_slice(mine);
        self.set(&key(self.rank.0), &value)?;
        (0..self.world_size)
            .map(|rank| {
                self.fetch(&key(rank), rank).map(|value| value[1.min(value.len())..].to_vec())
            })
            .collect()
    }

    /// Takes away what this rank published under `what`.
    fn leave(&self, what: &str) {
        // A store that is gone by now has nothing to be cleared.
        let _ = self.store.delete_key(&format!("{what}/{}", self.rank.0));
    }

    /// Clears what [`Meeting::all`] left, once everybody has read it.
    fn forget(&self, whats: [&str; 2], world: u32) -> Result<(), Error> {
        let done = "read".to_owned();
        let readers = self.store.add(&done, 1).map_err(|e| self.failed(e))?;
        if readers == i64::from(world) {
            let clear = |key: &str| -> Result<bool, StoreError> { self.store.delete_key(key) };
            for rank in 0..world {
                // What is left behind is a few bytes under a name that is never used again.
                for what in whats {
                    let _ = clear(&format!("{what}/{rank}"));
                }
            }
            let _ = clear(&done);
        }
        Ok(())
    }
}
