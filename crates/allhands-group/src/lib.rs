//! Process groups: rendezvous, every collective, blocking and async, errors that name the rank.

#![forbid(unsafe_code)]
