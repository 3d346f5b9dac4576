//! Rendezvous stores: HashStore, FileStore, PrefixStore and TcpStore in PyTorch's wire format.

#![forbid(unsafe_code)]
