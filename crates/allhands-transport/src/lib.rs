//! Links between ranks: a full mesh over TCP on mio, and local links between threads.

#![forbid(unsafe_code)]
