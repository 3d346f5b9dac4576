//! Developer commands of allhands.

fn main() {}
