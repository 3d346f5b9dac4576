//! Sparse calls whose later steps run beside the channel's other operations take turns: in the order in which they were
//! called, which is the same on all ranks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_tensor::{Tensor, TensorError};

use crate::primitive::{Condvar, Mutex, lock, wait};

/// Sparse calls of a group that may be under way at the same time.
pub(crate) const SPARSE_MAX: usize = 256;

/// Bytes of a stage that is kept for the next call. Zeroing fresh memory would cost a small call a tenth of its time.
const STAGE_KEPT: usize = 8 * 1024 * 1024;

/// Who is under way, by channel.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    state: Mutex<State>,
    moved: Condvar,
    /// What the last call needed for its stage.
    stage: Mutex<Option<Tensor>>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the next call.
    next: u64,
    /// For each busy channel, its calls in order.
    lanes: Vec<(u32, VecDeque<u64>)>,
    under_way: usize,
}

/// A call's place in its lane, given up on drop.
#[derive(Debug)]
pub(crate) struct Place {
    lanes: Arc<Lanes>,
    channel: u32,
    number: u64,
}

impl Lanes {
    /// A place behind the calls of the same channel; `None` if too many calls are under way for too long. A refusal at once
    /// would depend on which calls have ended here, and ranks would not agree on it.
    pub(crate) fn enter(
        self: &Arc<Self>,
        channel: u32,
        deadline: Option<Instant>,
    ) -> Option<Place> {
        let mut state = lock(&self.state);
        while state.under_way == SPARSE_MAX {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            state = wait(&self.moved, state, left);
        }
        state.under_way += 1;
        let number = state.next;
        state.next += 1;
        match state.lanes.iter_mut().find(|(id, _)| *id == channel) {
            Some((_, lane)) => lane.push_back(number),
            None => state.lanes.push((channel, VecDeque::from([number]))),
        }
        Some(Place { lanes: self.clone(), channel, number })
    }
}

impl Lanes {
    /// At least `len` bytes, which hold anything.
    pub(crate) fn stage(&self, len: usize) -> Result<Tensor, TensorError> {
        match lock(&self.stage).take() {
            Some(stage) if stage.byte_len() >= len => Ok(stage),
            _ => super::keys::bytes(len),
        }
    }

    /// Takes a stage back.
    pub(crate) fn keep(&self, stage: Tensor) {
        if stage.byte_len() <= STAGE_KEPT {
            *lock(&self.stage) = Some(stage);
        }
    }
}

impl Place {
    /// Waits until every earlier call of the channel is done, or the time is over; then the call fails by itself.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut state = lock(&self.lanes.state);
        loop {
            let lane = state.lanes.iter().find(|(id, _)| *id == self.channel);
            if lane.is_none_or(|(_, lane)| lane.front() == Some(&self.number)) {
                return;
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return;
            }
            state = wait(&self.lanes.moved, state, left);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.lanes.state);
        state.under_way -= 1;
        if let Some(at) = state.lanes.iter().position(|(id, _)| *id == self.channel) {
            state.lanes[at].1.retain(|&number| number != self.number);
            if state.lanes[at].1.is_empty() {
                state.lanes.swap_remove(at);
            }
        }
        drop(state);
        self.lanes.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_in_order_and_bounded() {
        let lanes = Arc::<Lanes>::default();
        let (first, other) = (lanes.enter(1, None).unwrap(), lanes.enter(2, None).unwrap());
        let second = lanes.enter(1, None).unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        first.wait(None);
        other.wait(None);
        second.wait(soon());
        let waiting = std::thread::spawn(move || second.wait(None));
        drop(first);
        waiting.join().unwrap();
        drop(other);
        let many: Vec<_> = (0..SPARSE_MAX).map(|_| lanes.enter(3, None).unwrap()).collect();
        assert!(lanes.enter(4, soon()).is_none());
        let patient = {
            let lanes = lanes.clone();
            std::thread::spawn(move || drop(lanes.enter(4, None).unwrap()))
        };
        drop(many);
        patient.join().unwrap();
        assert!(lock(&lanes.state).lanes.is_empty());
    }
}
