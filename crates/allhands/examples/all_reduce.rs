//! Every rank contributes its number; all learn the sum and the largest.
//!
//! Start it with a launcher, for example
//! `torchrun --no-python --nproc-per-node 4 target/release/examples/all_reduce` or `mpirun -n 4 …`,
//! or by hand with `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` set for each process.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks")]

use std::process::ExitCode;

use allhands::env::report_error;
use allhands::prelude::*;

fn run() -> Result<(), Error> {
    let group = ProcessGroup::from_env()?;
    let mut sum = [group.rank().0 + 1];
    group.all_reduce(&mut sum, ReduceOp::Sum)?;
    let mut largest = [group.rank().0];
    group.all_reduce(&mut largest, ReduceOp::Max)?;
    println!(
        "rank {} of {}: sum {}, largest {}",
        group.rank().0,
        group.world_size(),
        sum[0],
        largest[0]
    );
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Torchrun shows the error of the first rank that fails; everybody else reads it here.
            report_error(&error);
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
