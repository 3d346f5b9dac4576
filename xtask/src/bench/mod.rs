//! `cargo xtask bench-cluster`: real processes, verified results, times beside peers and limits.
//!
//! The protocol is the same for us, for the peers and for the machine's limits: back-to-back loops
//! on warmed buffers, time over operations; systems take turns in every round; at least five
//! rounds; median and spread are shown. A comparison is therefore always a ratio inside one run.
//!
//! One module a job: [`cli`] what is asked, [`sizes`] and [`cells`] what is measured, [`models`]
//! real gradient lists, [`launch`] processes and their control sockets, [`protocol`] what is said
//! on those, [`peers`] other systems, [`limits`] the machine, [`bound`] its shared memory, [`predict`] the cost model's word, [`run`] the rounds, [`stats`] and
//! [`record`] what is kept, [`table`] and [`plot`] what is shown, [`machine`] where it was measured.

pub mod bound;
pub mod cells;
pub mod cli;
pub mod launch;
pub mod limits;
pub mod machine;
pub mod models;
pub mod peers;
pub mod plot;
pub mod predict;
pub mod protocol;
pub mod record;
pub mod run;
pub mod sizes;
pub mod stats;
pub mod table;

pub use run::main;
