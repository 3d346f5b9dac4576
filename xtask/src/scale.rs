//! `cargo xtask scale`: what selection makes of an all-reduce among very many ranks, by the cost model.

use std::io::{self, Write as _};
use std::time::Instant;

use allhands_plan::{
    Determinism, Network, Precision, Shape, Table, all_reduce_bound, model, select,
};
use anyhow::{Result, ensure};

/// `cargo xtask scale`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Ranks.
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 16_384])]
    ranks: Vec<u32>,
    /// Bytes that are reduced.
    #[arg(long, value_delimiter = ',', default_values_t = [1 << 10, 1 << 20, 25 << 20, 1 << 30])]
    sizes: Vec<u64>,
    /// Ranks below one switch of the tapered tree.
    #[arg(long, default_value_t = 32)]
    ranks_per_switch: u32,
}

/// Runs `cargo xtask scale`: links of 12 GB/s and 5 µs, reductions overlapped; a full-bisection fat tree, and
/// one that tapers 4:1.
///
/// # Errors
/// A modelled time is above its bar: 1.1 times the bound on full bisection, 1.3 times on the tapered tree.
pub fn main(args: &Args) -> Result<()> {
    let mut out = io::stdout();
    let flat = Network::cluster().overlapped();
    let fabrics = [("full", flat, 1.1), ("4:1", flat.tapered(args.ranks_per_switch, 4.0), 1.3)];
    let table = Table::network();
    writeln!(
        out,
        "  ranks       bytes  fabric  algorithm           modelled us     bound us  ratio   bar"
    )?;
    let mut missed = Vec::new();
    let began = Instant::now();
    for &world in &args.ranks {
        for &bytes in &args.sizes {
            let shape = Shape::AllReduce { len: bytes / 4 };
            let chosen = select(&shape, world, 4, Precision::Exact, Determinism::Fixed, &table);
            let bound = all_reduce_bound(&flat, world, bytes);
            for (name, network, bar) in &fabrics {
                let seconds = model(&shape, chosen, world, 4, network)?.seconds;
                let ratio = seconds / bound;
                let (modelled, least) = (seconds * 1e6, bound * 1e6);
                writeln!(
                    out,
                    "{world:>7}  {bytes:>10}  {name:<6}  {chosen:<18}  {modelled:>11.1}  \
                     {least:>11.1}  {ratio:>5.3}  {bar:>4}"
                )?;
                if ratio > *bar {
                    missed.push(format!("{bytes} bytes among {world} on {name}: {ratio:.3}"));
                }
            }
        }
    }
    writeln!(out, "modelled in {:.1?}", began.elapsed())?;
    ensure!(missed.is_empty(), "above the bar: {}", missed.join("; "));
    Ok(())
}
