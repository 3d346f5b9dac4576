//! `cargo xtask plan`: a plan as text and drawing, with its proof and its modelled cost.

use std::io::Write as _;

use allhands_plan::{Algorithm, Collective, Description, Locality, Rank, describe};
use anyhow::Context as _;

use crate::layout::Layout;

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The collective: allreduce, broadcast, reduce, all_gather, gather, scatter, reduce_scatter,
    /// all_to_all or barrier.
    #[arg(value_parser = collective)]
    collective: Collective,
    /// How: direct, two-shot, ring, circulant, … Without it, what the table for networks selects.
    #[arg(long, value_parser = algorithm)]
    algorithm: Option<Algorithm>,
    /// Ranks.
    #[arg(long, default_value_t = 6)]
    world: u32,
    /// Hosts and ranks on each, as in 2x2: what hierarchical plans are made for.
    #[arg(long, conflicts_with_all = ["world", "ranks_modelled"])]
    hosts: Option<Layout>,
    /// Elements that are reduced or broadcast, or of each rank's block.
    #[arg(long, default_value_t = 7)]
    len: u64,
    /// The root of collectives that have one.
    #[arg(long, default_value_t = 0)]
    root: u32,
    /// Bytes of an element, for the cost.
    #[arg(long, default_value_t = 4)]
    elem_size: usize,
    /// Further sizes of groups whose cost is modelled, as in 1024,16384.
    #[arg(long, value_delimiter = ',')]
    ranks_modelled: Vec<u32>,
}

fn collective(name: &str) -> Result<Collective, String> {
    Collective::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Collective::ALL.map(Collective::name).into();
        format!("not a collective; there are {}", known.join(", "))
    })
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Algorithm::ALL.map(Algorithm::name).into();
        format!("not an algorithm; there are {}", known.join(", "))
    })
}

/// Prints the plan.
///
/// # Errors
///
/// If the algorithm does not do the collective, or its cost cannot be modelled.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let shown = show(args)?;
    std::io::stdout().write_all(shown.as_bytes()).context("cannot write the plan")
}

fn show(args: &Args) -> anyhow::Result<String> {
    let wanted = Description {
        collective: args.collective,
        len: args.len,
        root: Rank(args.root),
        algorithm: args.algorithm,
        locality: args.hosts.map_or_else(|| Locality::apart(args.world), Layout::locality),
        elem_size: args.elem_size,
        ranks_modelled: args.ranks_modelled.clone(),
    };
    describe(&wanted).context("cannot show this plan")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn shown(line: &str) -> Result<String, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        show(&cli.args).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_plan_is_shown_with_its_drawing_proof_and_cost() {
        let line = "plan allreduce --algorithm circulant --world 6 --len 7 --ranks-modelled 64,100";
        let shown = shown(line).unwrap();
        assert!(shown.starts_with("all_reduce by circulant: rank 0 of 6\n"), "{shown}");
        assert!(shown.contains("round  6 o-------------->"), "{shown}");
        assert!(shown.contains("proved: 6 rounds"), "{shown}");
        assert!(shown.contains("100 ranks  circulant"), "{shown}");
    }

    #[test]
    fn plans_that_tell_hosts_apart_are_shown() {
        let shown = shown("plan allreduce --algorithm hierarchical --hosts 2x3 --len 60").unwrap();
        assert!(shown.starts_with("all_reduce by hierarchical: rank 0 of 6\n"), "{shown}");
        assert!(shown.contains("between 2 hosts"), "{shown}");
    }

    #[test]
    fn mistakes_name_what_there_is() {
        assert!(shown("plan sum").unwrap_err().contains("all_to_all"));
        assert!(shown("plan barrier --algorithm rings").unwrap_err().contains("circulant"));
        let refused = shown("plan barrier --algorithm ring").unwrap_err();
        assert!(refused.contains("ring does not do barrier"), "{refused}");
        assert!(shown("plan allreduce --hosts 2x2 --world 4").unwrap_err().contains("--world"));
    }
}
