//! The algorithms and their stable numbers.

/// How a collective is done. The number of an algorithm rides in the fingerprint of an operation, so it
/// never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Algorithm {
    /// Every rank exchanges with every other at once: one-shot all-reduce, direct gather and so on.
    Direct = 1,
    /// Reduce-scatter and all-gather, each direct.
    TwoShot = 2,
    /// Exchange of everything with partners at distance 1, 2, 4, ….
    RecursiveDoubling = 3,
    /// Reduce-scatter by halving and all-gather by doubling (Rabenseifner), near first.
    HalvingDoubling = 4,
    /// Around a ring, one block a step.
    Ring = 5,
    /// Circulant reduce-scatter and all-gather (Träff 2024) in ceil(log2 P) rounds for every P.
    Circulant = 6,
    /// Recursive halving or doubling of blocks.
    Recursive = 7,
    /// Parallel aggregated trees (NCCL 2.23).
    Pat = 8,
    /// Binomial tree.
    Binomial = 9,
    /// Scatter, then all-gather (van de Geijn); for a reduction its mirror image.
    ScatterAllGather = 10,
    /// A chain through which segments flow.
    Chain = 11,
    /// Bruck's algorithm: ceil(log2 P) rounds of aggregated blocks.
    Bruck = 12,
    /// Partner r ± k in round k.
    Pairwise = 13,
    /// Dissemination barrier.
    Dissemination = 14,
    /// Dissemination with k partners a round.
    KAry = 15,
    /// Inside each host, between hosts, inside each host again, chunk by chunk. Only where ranks are placed
    /// on hosts: see [`Plan::build_on`](crate::Plan::build_on).
    Hierarchical = 16,
}

impl Algorithm {
    /// All algorithms, by their numbers.
    pub const ALL: [Self; 16] = [
        Self::Direct,
        Self::TwoShot,
        Self::RecursiveDoubling,
        Self::HalvingDoubling,
        Self::Ring,
        Self::Circulant,
        Self::Recursive,
        Self::Pat,
        Self::Binomial,
        Self::ScatterAllGather,
        Self::Chain,
        Self::Bruck,
        Self::Pairwise,
        Self::Dissemination,
        Self::KAry,
        Self::Hierarchical,
    ];

    /// Its name in tables, traces and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::TwoShot => "two-shot",
            Self::RecursiveDoubling => "recursive-doubling",
            Self::HalvingDoubling => "halving-doubling",
            Self::Ring => "ring",
            Self::Circulant => "circulant",
            Self::Recursive => "recursive",
            Self::Pat => "pat",
            Self::Binomial => "binomial",
            Self::ScatterAllGather => "scatter-all-gather",
            Self::Chain => "chain",
            Self::Bruck => "bruck",
            Self::Pairwise => "pairwise",
            Self::Dissemination => "dissemination",
            Self::KAry => "k-ary",
            Self::Hierarchical => "hierarchical",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The algorithm of that number.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.id() == id)
    }

    /// The number that stands for this algorithm on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers ride on the wire and names stand in files: neither may change.
    #[test]
    fn numbers_and_names_are_fixed() {
        let all: Vec<String> = Algorithm::ALL.iter().map(|a| format!("{} {a}", a.id())).collect();
        assert_eq!(
            all.join(", "),
            "1 direct, 2 two-shot, 3 recursive-doubling, 4 halving-doubling, 5 ring, 6 circulant, \
             7 recursive, 8 pat, 9 binomial, 10 scatter-all-gather, 11 chain, 12 bruck, \
             13 pairwise, 14 dissemination, 15 k-ary, 16 hierarchical"
        );
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::from_id(algorithm.id()), Some(algorithm));
        }
        assert_eq!((Algorithm::from_name("rings"), Algorithm::from_id(0)), (None, None));
    }
}
