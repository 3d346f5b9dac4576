//! One rank of a job: finds the store from the environment, tells the others where it is, and learns where they are.
//!
//! ```text
//! torchrun --no-python --nproc-per-node 3 target/debug/examples/rendezvous
//! ```

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is a program")]

use allhands_store::{ClientOptions, Endpoint, PrefixStore, ServerOptions, Store, TcpStore};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let rank: u32 = variable("RANK")?.parse()?;
    let world: u32 = variable("WORLD_SIZE")?.parse()?;
    let master = Endpoint::new(variable("MASTER_ADDR")?, variable("MASTER_PORT")?.parse()?);
    // The agent of torchrun serves the store, then every rank is a client; otherwise rank 0 serves it.
    let served = variable("TORCHELASTIC_USE_AGENT_STORE").is_ok_and(|value| value == "True");
    let restart = variable("TORCHELASTIC_RESTART_COUNT").unwrap_or_else(|_| "0".to_owned());

    let options = ClientOptions::new().timeout(Duration::from_secs(60));
    let store: Arc<dyn Store> = Arc::new(if rank == 0 && !served {
        let address = format!("{}:{}", master.host(), master.port()).parse()?;
        TcpStore::host(address, ServerOptions::new(), options)?
    } else {
        TcpStore::connect(master, options)?
    });

    // A restarted job must not find what an earlier attempt has left.
    let store = PrefixStore::new(format!("example/{restart}"), store);
    store.set(&format!("rank/{rank}"), format!("process {}", std::process::id()).as_bytes())?;
    for other in 0..world {
        let place = store.get(&format!("rank/{other}"))?;
        println!("rank {rank}: rank {other} is {}", String::from_utf8_lossy(&place));
    }
    // Rank 0 may serve the store: nobody leaves before all have read.
    store.barrier("done", world, Duration::from_secs(60))?;
    Ok(())
}
