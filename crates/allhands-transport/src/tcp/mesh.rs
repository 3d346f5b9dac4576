//! What forming a mesh results in.

use std::fmt;
use std::time::Duration;

use allhands_wire::Peer;

use super::control::TcpControl;
use super::links::TcpLinks;
use super::listener::ListenReport;
use crate::error::TurnedAway;

/// A complete mesh.
pub struct Mesh {
    /// The byte streams.
    pub links: TcpLinks,
    /// The control connections.
    pub control: TcpControl,
    /// How it came up.
    pub report: MeshReport,
}

/// How a mesh came up: one line at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeshReport {
    /// Where this rank listened, and why there.
    pub listen: ListenReport,
    /// This rank.
    pub me: Peer,
    /// Ranks of the mesh.
    pub world: u32,
    /// Data connections of each pair.
    pub lanes: u8,
    /// How long it took this rank.
    pub elapsed: Duration,
    /// Dials that had to be repeated.
    pub redials: u32,
    /// Connections that were turned away.
    pub turned_away: TurnedAway,
}

impl fmt::Display for MeshReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} joined in {:.1?}, {} data lanes a pair, {}; {} redials, {} strays",
            self.me,
            self.world,
            self.elapsed,
            self.lanes,
            self.listen,
            self.redials,
            self.turned_away.strays
        )
    }
}

/// How far the mesh is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Ranks that have joined, this one included.
    pub joined: u32,
    /// Ranks of the mesh.
    pub world: u32,
    /// Who has not.
    pub missing: Vec<Peer>,
    /// Time since the start.
    pub elapsed: Duration,
}
