//! Collective algorithms as data: plans, their builders, checker and cost model.

#![forbid(unsafe_code)]

mod algorithm;
mod builder;
mod plan;
mod shape;

pub use algorithm::Algorithm;
pub use plan::{
    Buffer, Finish, Lane, Local, Op, Order, Part, Plan, Rank, Slice, Span, Step, WAITS_MAX, Wait,
};
pub use shape::{Counts, Own, Shape};
