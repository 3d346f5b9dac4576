//! Ranks of one host agree to share memory, once their mesh stands.
//!
//! What does not work out between two ranks is told in the log, and goes over the network. What fails a group is a store
//! that fails, ranks that do not come, and a system that lets nobody wait for an event.

use std::sync::{Arc, Once};
use std::time::Instant;

use allhands_shm::arena::{Arena, ArenaError};
use allhands_shm::host::{self, Exchange, Round, ShareError, Shared};
use allhands_store::{Store, StoreError};
use allhands_tensor::{DType, Tensor, TensorError};
use allhands_transport::tcp::{Membership, TcpControl, TcpLinks};

use crate::error::Error;
use crate::group::{Joined, Meeting};

/// This rank's memory that its peers read in place.
#[derive(Debug)]
pub(crate) struct Memory {
    arena: Arc<Arena>,
    /// The log has been told that there is no room left.
    full: Once,
}

impl Memory {
    /// A tensor in the arena, or on the heap if there is no room.
    pub(crate) fn alloc(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        match self.arena.tensor(dtype, shape) {
            Ok(tensor) => Ok(tensor),
            Err(ArenaError::Shape(error)) => Err(error),
            Err(error) => {
                self.full.call_once(
                    || tracing::warn!(%error, "tensors come from the heap: peers get copies of them"),
                );
                Tensor::try_zeros(dtype, shape)
            }
        }
    }
}

/// Finds the ranks of this host and shares memory with them. `links` are the network's; they come back, alone or below
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
    let mut exchange = StoreExchange { meeting };
    let shared = host::share(&mut exchange, membership, links, control, deadline);
    let Shared { links, board, arena, ranks, unavailable, failed, .. } = match shared {
        Ok(shared) => shared,
        Err(ShareError::Exchange(error)) => return Err(error),
        Err(error) => {
            return Err(Error::System { what: "shared memory", reason: error.to_string() });
        }
    };
    if let Some(reason) = unavailable {
        tracing::warn!(%reason, "no shared memory: ranks of this host use the network");
    }
    for error in failed {
        tracing::warn!(%error, "no shared memory with a rank of this host: it uses the network");
    }
    if ranks > 1 {
        let (of, board) = (membership.world, board.is_some());
        tracing::info!(ranks, of, board, "sharing memory on this host");
    }
    let memory = arena.map(|arena| Memory { arena, full: Once::new() });
    Ok(Joined { links, board, memory, on_host: on_host.max(ranks) })
}

/// Ranks that tell each other through the store with whom they share memory.
struct StoreExchange<'a> {
    meeting: &'a Meeting,
}

/// Where each rank publishes what it tells in a round.
const NAMES: &str = "name";
const REACHED: &str = "reach";
const SWAPPED: &str = "met";

impl Exchange for StoreExchange<'_> {
    type Error = Error;

    fn all_gather(&mut self, round: Round, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        match round {
            Round::Names => self.meeting.all(NAMES, mine),
            Round::Reached { session } => {
                let told = self.meeting.within(&hex(&session)).all(REACHED, mine)?;
                // Everybody has read the names; the next meeting must not.
                self.meeting.leave(NAMES);
                Ok(told)
            }
            Round::Swapped { session } => {
                let session = self.meeting.within(&hex(&session));
                let told = session.all(SWAPPED, mine)?;
                session.forget([REACHED, SWAPPED])?;
                Ok(told)
            }
        }
    }
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
    fn forget(&self, whats: [&str; 2]) -> Result<(), Error> {
        let done = "read".to_owned();
        let readers = self.store.add(&done, 1).map_err(|e| self.failed(e))?;
        if readers == i64::from(self.world_size) {
            let clear = |key: &str| -> Result<bool, StoreError> { self.store.delete_key(key) };
            for rank in 0..self.world_size {
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
