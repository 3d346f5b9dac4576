//! What an engine holds, for metrics and for tests that say it is bounded.

use crate::engine::Engine;
use crate::op::{Content, OpState};

/// What an engine holds beside the buffers of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// What early frames take up in the fullest pool, in bytes with overhead: at most
    /// [`Config::eager_window`](crate::Config::eager_window).
    pub pool: usize,
    /// The same for point-to-point messages that nobody has asked for.
    pub point_pool: usize,
    /// Bytes that this rank believes to take up in the fullest pool of a peer.
    pub window: usize,
    /// The same for point-to-point messages.
    pub point_window: usize,
    /// Bytes of messages that came before their turn: of operations not submitted, of steps not begun,
    /// and of several senders that are combined at once.
    pub held: usize,
    /// Bytes of scratch memory kept for the next operation.
    pub scratch: usize,
    /// Entries in all queues and lists.
    pub entries: usize,
    /// Entries for which queues and lists have room. Steady traffic leaves it as it is.
    pub room: usize,
}

fn bytes(content: &Content) -> usize {
    content.reached().unwrap_or(0)
}

fn held(op: &OpState) -> usize {
    let parked: usize = op.parked.iter().map(|parked| bytes(&parked.content)).sum();
    parked + op.lanes.iter().map(|lane| lane.assembly.len()).sum::<usize>()
}

impl Engine {
    /// What the engine holds now. Looks at everything: for metrics, not for every turn.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let mut sum = self.own_footprint();
        let mut add = |(entries, room): (usize, usize)| {
            sum.entries += entries;
            sum.room += room;
        };
        for group in self.groups.iter().flatten() {
            add((group.channels.len() + group.mismatches.len(), group.channels.capacity()));
            for point in &group.point {
                add(point.entries());
            }
            for channel in &group.channels {
                add((channel.window.len(), channel.window.capacity()));
                add((channel.early.len(), channel.early.capacity()));
                add((channel.history.len(), channel.history.capacity()));
                for confirm in &channel.confirm {
                    add((confirm.outstanding.len(), confirm.outstanding.capacity()));
                }
            }
        }
        for peer in &self.peers {
            add(peer.out.entries());
        }
        for peer in &self.peers {
            sum.pool = sum.pool.max(peer.pool);
            sum.point_pool = sum.point_pool.max(peer.point_pool);
            sum.window = sum.window.max(peer.out.eager);
            sum.point_window = sum.point_window.max(peer.out.point_eager);
        }
        let groups = self.groups.iter().flatten();
        for group in groups {
            sum.held += group.point.iter().map(crate::point::PointState::held).sum::<usize>();
            let early = group.channels.iter().flat_map(|channel| &channel.early);
            let messages = early.flat_map(|early| &early.messages);
            sum.held += messages.map(|message| bytes(&message.content)).sum::<usize>();
        }
        sum.held += self.ops_in_flight().map(held).sum::<usize>();
        sum
    }
}
