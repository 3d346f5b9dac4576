//! What can go wrong with a process group.

use std::time::Duration;

use allhands_collectives as collectives;
use allhands_engine::Refusal;
use allhands_plan::Rank;
use allhands_store::StoreError;
use allhands_transport::TransportError;

use crate::config::Transport;
use crate::env::EnvError;

/// Why a process group could not be made, or an operation on it did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed, or made no sense.
    #[error(transparent)]
    Operation(#[from] collectives::Error),
    /// The launcher's variables are missing or make no sense.
    #[error(transparent)]
    Environment(#[from] EnvError),
    /// The store failed.
    #[error("rendezvous of rank {} of {world_size}: {source}", rank.0)]
    Store {
        /// This rank.
        rank: Rank,
        /// Ranks of the group.
        world_size: u32,
        /// What happened.
        source: StoreError,
    },
    /// Ranks did not come to the rendezvous.
    #[error(
        "rendezvous of rank {} of {world_size}: {} of {world_size} ranks came within {limit:?}, missing: {}; \
         are all of them started, with the same job id, world size and store?",
        rank.0, world_size - missing.len() as u32, list(missing)
    )]
    Rendezvous {
        /// This rank.
        rank: Rank,
        /// Ranks of the group.
        world_size: u32,
        /// Who has not come.
        missing: Vec<Rank>,
        /// How long this rank waited.
        limit: Duration,
    },
    /// A rank beyond the world, or a world of nobody.
    #[error("rank {} does not exist in a world of {world_size}; ranks count from 0", rank.0)]
    NoSuchRank {
        /// What was asked for.
        rank: Rank,
        /// Ranks of the group.
        world_size: u32,
    },
    /// A world of nobody, or of more ranks than can meet.
    #[error("a world of {world_size} ranks was asked for; it takes 1 to {limit}")]
    World {
        /// Ranks asked for.
        world_size: u32,
        /// The largest world.
        limit: u32,
    },
    /// Ranks were started with different world sizes.
    #[error(
        "rank {} was started with a world of {mine}, rank {} with {theirs}; start all ranks with the same world size",
        rank.0, other.0
    )]
    WorldSize {
        /// This rank.
        rank: Rank,
        /// What this rank was told.
        mine: u32,
        /// A rank that was told otherwise.
        other: Rank,
        /// What that rank was told.
        theirs: u32,
    },
    /// Ranks were started with different transports.
    #[error(
        "rank {} was started with transport {}, rank {} with {}; start all ranks with the same ALLHANDS_TRANSPORT",
        rank.0, mine.name(), other.0, theirs.map_or("one that this version does not know", Transport::name)
    )]
    TransportChoice {
        /// This rank.
        rank: Rank,
        /// What this rank was told.
        mine: Transport,
        /// A rank that was told otherwise.
        other: Rank,
        /// What that rank was told.
        theirs: Option<Transport>,
    },
    /// The mesh could not be formed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The group does not fit the mesh.
    #[error(transparent)]
    Group(#[from] Refusal),
    /// What stands in the store for the job key is not one.
    #[error(
        "the key that rank 0 published has {bytes} bytes instead of {expected}; does another program use this store?"
    )]
    PublishedKey {
        /// Its length.
        bytes: usize,
        /// The length of a key.
        expected: usize,
    },
    /// The operating system refused a thread or random bytes.
    #[error("the operating system refused {what}: {reason}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        reason: String,
    },
}

fn list(ranks: &[Rank]) -> String {
    let mut text = String::new();
    for (at, rank) in ranks.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        text.push_str(&format!("{comma}{}", rank.0));
    }
    text
}

impl Error {
    /// Ranks that the error blames, if it blames any.
    #[must_use]
    pub fn ranks(&self) -> Vec<Rank> {
        match self {
            Self::Operation(error) => error.ranks(),
            Self::Rendezvous { missing, .. } => missing.clone(),
            Self::WorldSize { other, .. } | Self::TransportChoice { other, .. } => vec![*other],
            _ => Vec::new(),
        }
    }
}
