//! Which collectives look the same from every rank.

use crate::algorithm::Algorithm;
use crate::shape::{Counts, Shape};

/// How another rank's view follows from that of rank 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symmetry {
    /// Rank r sees rank r + d as rank 0 sees rank d.
    Rotation,
    /// Rank r sees rank r ^ d as rank 0 sees rank d.
    Exchange,
}

impl Symmetry {
    /// The symmetry of a collective, if it has one.
    pub(super) fn of(shape: &Shape, algorithm: Algorithm, world: u32) -> Option<Self> {
        let counts = match shape {
            Shape::AllReduce { .. } | Shape::Barrier => true,
            Shape::AllGather { counts, .. } | Shape::ReduceScatter { counts } => {
                matches!(counts, Counts::Equal(_))
            }
            Shape::AllToAll { send, recv } => {
                matches!((send, recv), (Counts::Equal(_), Counts::Equal(_)))
            }
            Shape::Broadcast { .. }
            | Shape::Reduce { .. }
            | Shape::Gather { .. }
            | Shape::Scatter { .. } => false,
        };
        match algorithm {
            _ if !counts => None,
            Algorithm::Direct
            | Algorithm::TwoShot
            | Algorithm::Ring
            | Algorithm::Circulant
            | Algorithm::Bruck
            | Algorithm::Pairwise
            | Algorithm::Dissemination
            | Algorithm::KAry => Some(Self::Rotation),
            Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling
                if world.is_power_of_two() =>
            {
                Some(Self::Exchange)
            }
            _ => None,
        }
    }

    /// From whom rank 0 receives what `peer` receives from it.
    pub(super) fn opposite(self, peer: u32, world: u32) -> u32 {
        match self {
            Self::Rotation => (world - peer) % world,
            Self::Exchange => peer,
        }
    }

    /// How far away `peer` is of rank 0.
    pub(super) fn distance(self, peer: u32, world: u32) -> u32 {
        match self {
            Self::Rotation => peer.min(world - peer),
            Self::Exchange => peer,
        }
    }
}
