//! Drives the engine over links: the collectives as a slice and tensor API.

#![forbid(unsafe_code)]
