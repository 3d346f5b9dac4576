//! Ranks on hosts, as commands take them.

use std::str::FromStr;

use allhands_oracles::hosts::HOSTS_MAX;
use allhands_plan::Locality;

/// Hosts, each with as many ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) hosts: u32,
    pub(crate) each: u32,
}

impl Layout {
    /// The host of each rank.
    pub(crate) fn locality(self) -> Locality {
        Locality::new((0..self.hosts * self.each).map(|rank| rank / self.each))
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |word: &str| word.parse::<u32>().ok().filter(|n| (1..=64).contains(n));
        let (hosts, each) = text.split_once('x').ok_or("write hosts x ranks, as in 2x2")?;
        match (parse(hosts).filter(|hosts| (2..=HOSTS_MAX).contains(hosts)), parse(each)) {
            (Some(hosts), Some(each)) => Ok(Self { hosts, each }),
            _ => Err(format!("{text:?} is not 2 to 64 hosts of 1 to 64 ranks, as in 2x2")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_hosts_of_ranks() {
        let layout = Layout { hosts: 2, each: 3 };
        assert_eq!("2x3".parse(), Ok(layout));
        assert_eq!(layout.locality(), Locality::new([0, 0, 0, 1, 1, 1]));
        for nonsense in ["", "2", "1x2", "2x0", "65x1", "axb", "2x2x2"] {
            assert!(nonsense.parse::<Layout>().is_err(), "{nonsense:?}");
        }
    }
}
