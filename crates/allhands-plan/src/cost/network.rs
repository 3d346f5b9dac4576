//! The figures that describe a network.

/// Whether a reduction runs while its operands arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// It begins when all operands are there.
    After,
    /// It begins with the first byte and keeps up as far as the processor allows.
    WhileReceiving,
}

/// How ranks are connected.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fabric {
    /// Any pairing of ranks communicates at full rate.
    FullBisection,
    /// Neighbouring ranks share a switch, whose links to the others carry less than its ranks could send.
    FatTree {
        /// Ranks below one switch.
        ranks_per_switch: u32,
        /// What the ranks of a switch could send, over what its uplinks carry: 4.0 for a 4:1 taper.
        taper: f64,
    },
    /// Ranks are placed on hosts, see [`model_on`](crate::model_on). Those of one host share its link, which
    /// carries what [`Network::beta`] says, and reach each other without it.
    Hosts {
        /// Seconds from when a message's first byte leaves until it arrives, inside a host.
        alpha: f64,
        /// Seconds a byte through a rank's port to its host, each way.
        beta: f64,
    },
}

/// A network and the processors at its ends, as far as the model cares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Seconds from when a message's first byte leaves until it arrives.
    pub alpha: f64,
    /// Seconds a byte through a rank's port, each way.
    pub beta: f64,
    /// Seconds a byte to combine one more operand, or to copy.
    pub gamma: f64,
    /// Seconds that a message occupies its sender's and its receiver's port besides its bytes.
    pub overhead: f64,
    /// When reductions run.
    pub overlap: Overlap,
    /// How ranks are connected.
    pub fabric: Fabric,
}

/// A core that reads two operands and writes one at 20 GB/s of either operand.
const CORE: f64 = 1.0 / 20e9;

impl Network {
    /// 10 Gbit/s Ethernet over TCP: 30 µs, 1.2 GB/s.
    #[must_use]
    pub const fn ten_gigabit() -> Self {
        Self::flat(30e-6, 1.2e9)
    }

    /// 100 Gbit/s Ethernet over TCP: 25 µs, 10 GB/s.
    #[must_use]
    pub const fn hundred_gigabit() -> Self {
        Self::flat(25e-6, 10e9)
    }

    /// A cluster network: 5 µs, 12 GB/s.
    #[must_use]
    pub const fn cluster() -> Self {
        Self::flat(5e-6, 12e9)
    }

    /// A full-bisection network of that latency in seconds and bandwidth in bytes a second, no overhead a
    /// message, and reductions by one core after receiving.
    #[must_use]
    pub const fn flat(alpha: f64, bandwidth: f64) -> Self {
        Self {
            alpha,
            beta: 1.0 / bandwidth,
            gamma: CORE,
            overhead: 0.0,
            overlap: Overlap::After,
            fabric: Fabric::FullBisection,
        }
    }

    /// The same with reductions that run while operands arrive.
    #[must_use]
    pub const fn overlapped(self) -> Self {
        Self { overlap: Overlap::WhileReceiving, ..self }
    }

    /// The same between hosts, inside which ranks reach each other with that latency in seconds and bandwidth in
    /// bytes a second.
    #[must_use]
    pub const fn between_hosts(self, alpha: f64, bandwidth: f64) -> Self {
        Self { fabric: Fabric::Hosts { alpha, beta: 1.0 / bandwidth }, ..self }
    }

    /// The same as a fat tree whose switches join `ranks_per_switch` ranks and taper by `taper`.
    #[must_use]
    pub const fn tapered(self, ranks_per_switch: u32, taper: f64) -> Self {
        Self { fabric: Fabric::FatTree { ranks_per_switch, taper }, ..self }
    }
}
