//! `bench-rank`: one process of bench-cluster.
//!
//! It waits for commands asleep in the kernel, answers each with one line, and ends the moment its
//! control socket closes.

mod bind;
pub mod collectives;
pub mod control;
pub mod count;
pub mod group;
pub mod limits;
pub mod measure;
pub mod nemesis;
pub mod pattern;
pub mod sparse;

use std::env;

use anyhow::{Context, Result, bail};

use crate::bench::protocol::CORE_VARIABLE;
use control::Control;

/// Runs the program: `bench-rank group`, `bench-rank local WORLD` or `bench-rank limits RANK`.
///
/// # Errors
/// The arguments are wrong, the control socket cannot be reached, or the group cannot be formed.
pub fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let role = args.next().unwrap_or_default();
    match role.as_str() {
        "group" => {
            if let Ok(core) = env::var(CORE_VARIABLE) {
                bind::to_core(core.parse()?);
            }
            group::join()
        }
        "local" => group::local(args.next().context("`local` needs a world size")?.parse()?),
        "count" => count::main(args),
        "nemesis" => nemesis::main(args),
        "limits" => {
            let rank = args.next().context("`limits` needs a rank")?.parse()?;
            limits::serve(&Control::connect()?, rank)
        }
        _ => bail!("unknown role `{role}`: bench-cluster starts this program"),
    }
}
