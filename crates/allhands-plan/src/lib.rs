#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod algorithm;
mod all_gather;
mod all_reduce;
mod all_to_all;
mod barrier;
mod blocks;
mod broadcast;
mod build;
mod builder;
mod check;
mod cost;
mod draw;
mod error;
mod gather;
mod locality;
mod pat;
pub mod plan;
mod reduce;
mod reduce_scatter;
mod rounds;
mod select;
mod shape;
mod text;
mod tree;

pub use algorithm::Algorithm;
pub use check::{At, Defect, Proof, Stuck, check};
pub use cost::{
    Fabric, MESSAGES_MAX, Method, Modelled, Network, Overlap, all_reduce_bound, model, model_on,
    modelled_time,
};
pub use draw::{Description, MESSAGES_DRAWN_MAX, RANKS_DRAWN_MAX, describe, draw};
pub use error::{ELEMENTS_MAX, PlanError, WORLD_MAX};
pub use locality::Locality;
pub use plan::{
    Buffer, Finish, Lane, Local, Op, Order, Part, Plan, Rank, Slice, Span, Step, WAITS_MAX, Wait,
};
pub use select::{
    Collective, Determinism, Precision, ROWS_MAX, Row, Table, TableError, Worlds, bytes, select,
    select_on,
};
pub use shape::{Counts, Own, Shape};
