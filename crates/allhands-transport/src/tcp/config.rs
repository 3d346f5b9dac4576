//! What a caller decides about the mesh.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use allhands_wire::{JobKey, Peer};

use crate::interface::{Family, InterfaceChoice, Reach, Wish};

/// How a rank listens, and how its connections are set up. The number of lanes must be the same on all
/// ranks; the rest may differ.
///
/// ```
/// use allhands_transport::tcp::TcpConfig;
///
/// let config = TcpConfig {
///     interface: "10.0.0.0/8".parse()?,
///     ports: 29_600..=29_699,
///     ..TcpConfig::default()
/// };
/// assert_eq!(config.lanes, 1);
/// # Ok::<(), allhands_transport::interface::InterfaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Which interface to listen on.
    pub interface: InterfaceChoice,
    /// Which versions of IP.
    pub family: Family,
    /// The master's address, resolved; the route to it is the default choice.
    pub master: Option<IpAddr>,
    /// Where the ranks are, as far as the launcher says.
    pub reach: Reach,
    /// Ports to try in turn; 0 stands for any free one.
    pub ports: RangeInclusive<u16>,
    /// Addresses to publish in place of the one listened on, for ranks behind a port mapping. Empty: the
    /// one listened on.
    pub advertise: Vec<SocketAddr>,
    /// Data connections between each pair, 1 to [`LANES_MAX`](super::LANES_MAX). More than one pays where a
    /// single connection cannot fill the network; never on one host.
    pub lanes: u8,
    /// Sizes of the sockets' buffers.
    pub buffers: Buffers,
    /// The congestion control of data connections.
    pub congestion: Congestion,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            interface: InterfaceChoice::default(),
            family: Family::default(),
            master: None,
            reach: Reach::default(),
            ports: 0..=0,
            advertise: Vec::new(),
            lanes: 1,
            buffers: Buffers::default(),
            congestion: Congestion::default(),
        }
    }
}

impl TcpConfig {
    pub(super) fn wish(&self) -> Wish {
        Wish {
            choice: self.interface.clone(),
            family: self.family,
            master: self.master,
            reach: self.reach,
        }
    }
}

/// Sizes of the buffers of data connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Buffers {
    /// Between ranks of one host 1 MiB each way where the system allows that much; elsewhere the
    /// operating system's own tuning, which a fixed size would switch off.
    #[default]
    Auto,
    /// The operating system's own tuning everywhere.
    System,
    /// This many bytes each way; the operating system may give less.
    Bytes(usize),
}

/// The congestion control of data connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// Between ranks of one host `reno`, which every Linux has and allows: nothing is ever lost there, and
    /// algorithms that pace or probe cost up to a third of the rate. Elsewhere the system's.
    #[default]
    Auto,
    /// The operating system's default everywhere.
    System,
    /// The algorithm of this name; one that the system lacks or forbids is ignored, with one warning.
    Named(String),
}

/// Which mesh a rank joins, and as whom.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The job. Ranks of different jobs turn each other away.
    pub job_id: String,
    /// The job's secret. Every connection proves it.
    pub key: JobKey,
    /// The generation of the mesh; one more each time it is formed anew.
    pub epoch: u32,
    /// This rank's place, below `world`.
    pub me: Peer,
    /// Ranks of the mesh.
    pub world: u32,
}
