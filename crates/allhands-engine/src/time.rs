//! Time passes: deadlines come due, settling ends, late peers are asked how far they are.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use allhands_plan::Rank;
use allhands_wire::{Cause, Describe, Message, Peer, Report, Text};

use crate::config::LAST_WORDS;
use crate::engine::Engine;
use crate::error::Failure;
use crate::failure::Health;
use crate::op::{Body, OpKey, OpState};
use crate::outbound::POINT_CHANNEL;
use crate::point::PointState;

impl Engine {
    /// The next time at which [`Engine::handle_time`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Time passes: deadlines, settling and unanswered questions come due.
    pub fn handle_time(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.next_deadline.is_none_or(|due| due > now) {
            return;
        }
        self.next_deadline = None;
        for group in 0..self.groups.len() as u32 {
            if self.groups[group as usize].is_some() {
                self.group_time(group);
            }
        }
        let mut due = Vec::new();
        let mut probes = Vec::new();
        let mut next = None;
        let probe_after = self.config.probe_after;
        let mut later = |at: Instant| next = Some(next.map_or(at, |n: Instant| n.min(at)));
        for op in self.ops_in_flight() {
            match op.deadline {
                Some(deadline) if deadline <= now => {
                    due.push(op.key);
                    continue;
                }
                Some(deadline) => later(deadline),
                None => {}
            }
            if op.probed || op.channel == POINT_CHANNEL {
                continue;
            }
            let probe = op.probe_at(probe_after);
            if probe > now {
                later(probe);
            } else if self.is_first(op) {
                probes.push(op.key);
            } else {
                // What comes before it may be all that holds it up.
                later(now + probe_after);
            }
        }
        self.note_deadline(next);
        for key in probes {
            let Some(op) = self.op_mut(key) else { continue };
            op.probed = true;
            let (group, channel, seq) = (op.group, op.channel, op.seq);
            self.tell_all(group, channel, seq, Message::Describe(Describe::Ask));
        }
        for key in due {
            let Some(op) = self.op_mut(key) else { continue };
            op.deadline = None;
            let group = op.group;
            let report = self.op(key).map(|op| self.timeout(op));
            if let Some(report) = report {
                self.fail(group, report);
            }
        }
    }

    fn group_time(&mut self, group: u32) {
        let now = self.now;
        let (settle, describe) = (self.config.settle, self.config.describe);
        let awaiting = self.awaits_last_words(group);
        let owner = self.group_mut(group);
        if let Some(pending) = owner.mismatches.first_mut() {
            let until = *pending.until.get_or_insert(now + describe);
            if until <= now {
                let found = owner.mismatches.swap_remove(0);
                self.accuse(group, &found);
            } else {
                self.note_deadline(Some(until));
            }
        }
        let owner = self.group_mut(group);
        let Health::Settling { report, until } = &mut owner.health else { return };
        let until = *until.get_or_insert(now + settle);
        if until > now {
            return self.note_deadline(Some(until));
        }
        if awaiting && until + LAST_WORDS > now {
            return self.note_deadline(Some(until + LAST_WORDS));
        }
        let report: Arc<Report> = Arc::new(**report);
        owner.health = Health::Failed(report.clone());
        owner.mismatches.clear();
        self.end_all(group, &report);
    }

    /// Whether the group is about to blame peers whose own words may still come: who ends because of
    /// another's death says so first, on its control connection.
    fn awaits_last_words(&self, group: u32) -> bool {
        let Health::Settling { report, .. } = &self.group_ref(group).health else { return false };
        matches!(report.cause, Cause::PeerDied | Cause::ConnLost)
            && report.culprits.listed().iter().any(|peer| {
                let state = self.peers.get(peer.index());
                state.is_some_and(|state| *peer != self.me && !state.silenced)
            })
    }

    /// Whether no operation before this one is in flight on its channel.
    fn is_first(&self, op: &OpState) -> bool {
        let owner = self.group_ref(op.group);
        let first = owner.channel_ref(op.channel).is_some_and(|c| c.first == op.seq);
        first && matches!(owner.health, Health::Good)
    }

    /// Ends every operation of a failed group and takes its messages off the wire.
    fn end_all(&mut self, group: u32, report: &Arc<Report>) {
        let keys = self.keys_in_group(group);
        let owner = self.group_mut(group);
        owner.point.iter_mut().for_each(PointState::forget_all);
        // Keys come in the order of their indices.
        let gone = |key: OpKey| keys.binary_search_by_key(&key.index, |k| k.index).is_ok();
        for state in &mut self.peers {
            state.out.drop_group(group, gone);
        }
        self.pulls.retain(|pull| !gone(pull.op));
        for key in keys {
            let Some(op) = self.take_op(key) else { continue };
            let failure = Failure {
                report: report.clone(),
                descriptor: op.descriptor,
                channel: op.channel,
                seq: op.seq,
                elapsed: self.now.saturating_duration_since(op.submitted),
                awaited: op.awaited().into_vec(),
            };
            self.end(op, Err(Box::new(failure)));
        }
    }

    /// Who kept an operation from ending in time, and where they are.
    fn timeout(&self, op: &OpState) -> Report {
        let owner = self.group_ref(op.group);
        let mut text = String::new();
        let mut culprits: Vec<Peer> = Vec::new();
        if op.channel != POINT_CHANNEL
            && let Some(channel) = owner.channel_ref(op.channel)
        {
            for (index, confirm) in channel.confirm.iter().enumerate() {
                let rank = Rank(index as u32);
                if rank == owner.rank || confirm.submitted > op.seq {
                    continue;
                }
                culprits.push(owner.peer_of(rank));
                let _ = match confirm.submitted {
                    0 => write!(text, "{rank} has not called any operation; "),
                    n => write!(text, "{rank} was last heard in operation {}; ", n - 1),
                };
            }
        }
        if culprits.is_empty() {
            let ranks = match op.awaited() {
                awaited if !awaited.is_empty() => awaited,
                _ => op.undelivered(),
            };
            for rank in ranks {
                culprits.push(owner.peer_of(rank));
                let _ = match op.body {
                    Body::Send(..) => write!(text, "{rank} has not asked for the message; "),
                    Body::Recv(..) => write!(text, "{rank} has not sent the message; "),
                    Body::Collective(_) | Body::Flat { .. } | Body::Ended => {
                        write!(text, "{rank} has called the operation, but its data is missing; ")
                    }
                };
            }
        }
        Report {
            channel: op.channel,
            seq: op.seq,
            elapsed_ms: self.now.saturating_duration_since(op.submitted).as_millis() as u64,
            text: Text::new(text.trim_end_matches("; ")),
            ..Report::new(Cause::Timeout, self.me, culprits)
        }
    }
}
