//! Developer commands of allhands.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of allhands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start local ranks as real processes, verify and time every collective, compare with peers.
    BenchCluster(Box<xtask::bench::cli::Args>),
    /// Count the instructions of the hot paths under callgrind, and compare with the recorded counts.
    Instructions(xtask::instructions::Args),
    /// Attack real ranks: kill them, let them disagree, flood them; and measure how well they fail.
    Nemesis(xtask::nemesis::Args),
    /// Time all-reduces of ranks on several hosts (network namespaces) against what their links allow.
    Hosts(xtask::hosts::Args),
    /// Show a plan as text and drawing, with its proof and its modelled cost.
    Plan(xtask::plan::Args),
    /// Model all-reduces of very many ranks, against the bound of rounds and bytes.
    Scale(xtask::scale::Args),
    /// Merge the flight records of ranks into one Chrome trace, on one clock.
    Trace(xtask::trace::Args),
    /// Measure every algorithm with local ranks and write the table of the fastest.
    Tune(xtask::tune::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::BenchCluster(args) => xtask::bench::main(&args),
        Command::Instructions(args) => xtask::instructions::main(&args),
        Command::Nemesis(args) => xtask::nemesis::main(&args),
        Command::Hosts(args) => xtask::hosts::main(&args),
        Command::Plan(args) => xtask::plan::main(&args),
        Command::Scale(args) => xtask::scale::main(&args),
        Command::Trace(args) => xtask::trace::main(&args),
        Command::Tune(args) => xtask::tune::main(&args),
    }
}
