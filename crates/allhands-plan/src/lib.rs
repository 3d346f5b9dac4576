//! Collective algorithms as data: plans, their builders, checker and cost model.

#![forbid(unsafe_code)]
