//! One process of bench-cluster: a rank of allhands, or a part of the machine's limits.
//!
//! Started by `cargo xtask bench-cluster`, which speaks to it over a control socket.

#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    xtask::worker::main()
}
