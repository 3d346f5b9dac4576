//! Which ranks share a host.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::plan::Rank;

/// The host of each rank of a group, in rank order. All ranks of a group must know the same one, since plans
/// are made from it.
///
/// Hosts are numbered in the order in which their first ranks come, so that equal placements are equal values.
///
/// ```
/// use allhands_plan::{Locality, Rank};
///
/// let locality = Locality::new(["b", "a", "b"]);
/// assert_eq!((locality.world(), locality.hosts()), (3, 2));
/// assert_eq!(locality.members(0), [Rank(0), Rank(2)]);
/// assert!(locality.is_mixed());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Host of each rank.
    host: Arc<[u32]>,
    /// Ranks of each host, ascending.
    members: Arc<[Vec<Rank>]>,
}

impl Locality {
    /// Ranks are on one host if their names are equal.
    #[must_use]
    pub fn new<H: Hash + Eq>(names: impl IntoIterator<Item = H>) -> Self {
        let mut known = HashMap::new();
        let mut members: Vec<Vec<Rank>> = Vec::new();
        let mut host = Vec::new();
        for (rank, name) in (0_u32..).zip(names) {
            let number = *known.entry(name).or_insert(members.len());
            if number == members.len() {
                members.push(Vec::new());
            }
            members[number].push(Rank(rank));
            host.push(number as u32);
        }
        Self { host: host.into(), members: members.into() }
    }

    /// Every rank on a host of its own.
    #[must_use]
    pub fn apart(world: u32) -> Self {
        Self::new(0..world)
    }

    /// Ranks of the group.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.host.len() as u32
    }

    /// Hosts; at most one a rank.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        self.members.len() as u32
    }

    /// The host of `rank`; `None` if it is not in the group.
    #[must_use]
    pub fn host(&self, rank: Rank) -> Option<u32> {
        self.host.get(rank.index()).copied()
    }

    /// Ranks of a host, ascending; none if there is no such host.
    #[must_use]
    pub fn members(&self, host: u32) -> &[Rank] {
        self.members.get(host as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether some ranks share a host and others do not: where it pays to tell them apart.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        (2..self.world()).contains(&self.hosts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_ranks_together_is_mixed() {
        for (hosts, mixed) in [
            (&[0][..], false),
            (&[5, 5], false),
            (&[5, 6], false),
            (&[5, 6, 5], true),
            (&[1, 1, 1], false),
            (&[3, 2, 1, 0], false),
        ] {
            assert_eq!(Locality::new(hosts).is_mixed(), mixed, "{hosts:?}");
        }
        assert!(!Locality::apart(0).is_mixed());
    }

    #[test]
    fn equal_placements_are_equal_whatever_the_names() {
        assert_eq!(Locality::new([7, 9, 7]), Locality::new(["x", "y", "x"]));
        assert_ne!(Locality::new([7, 9, 7]), Locality::new([7, 9, 9]));
        let locality = Locality::new([4, 1, 4, 4, 1]);
        assert_eq!(locality.members(1), [Rank(1), Rank(4)]);
        assert_eq!((locality.host(Rank(3)), locality.host(Rank(5))), (Some(0), None));
        assert!(locality.members(2).is_empty());
    }
}
