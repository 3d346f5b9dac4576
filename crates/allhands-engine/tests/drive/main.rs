//! The engine in virtual time: N of them, joined by byte pipes that cut, delay and reorder.
#![allow(missing_docs, reason = "test code")]
#![allow(unreachable_pub, reason = "modules of one test program")]
mod bits;
mod bounds;
mod case;
mod collectives;
mod failure;
mod fold;
mod forged;
mod point;
mod refusals;
mod rng;
mod rogue;
mod world;
