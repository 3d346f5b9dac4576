//! How many strangers may wait at once. Pure: keys, addresses and `now` in, verdicts out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Connections that have not proved the job key yet, from everywhere.
pub(super) const PENDING_MAX: usize = 64;

/// The same from one address that is not a member's.
pub(super) const PENDING_PER_STRANGER: usize = 16;

/// A connection that has not proved the key by then is closed. An honest one needs milliseconds.
pub(super) const PROOF_LIMIT: Duration = Duration::from_secs(2);

/// A connection may be pushed out by a newer one only after this long, so that honest ones have time
/// to answer and a flood is slowed down instead of starving them.
pub(super) const GRACE: Duration = Duration::from_millis(20);

/// What to do with a connection that was just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admit,
    /// Close this older connection and admit the new one.
    AdmitAndEvict(usize),
    /// Close the new one.
    Refuse,
}

struct Pending {
    key: usize,
    source: IpAddr,
    since: Instant,
}

/// The strangers that wait, oldest first.
pub(super) struct Gate {
    pending: VecDeque<Pending>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { pending: VecDeque::with_capacity(PENDING_MAX) }
    }

    /// When the next connection may be accepted; `None`: now.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        if self.pending.len() < PENDING_MAX {
            return None;
        }
        let opens = self.pending.front()?.since + GRACE;
        (opens > now).then_some(opens)
    }

    /// Judges a new connection from `source`, of which `known` says whether members have it.
    pub(super) fn judge(&self, source: IpAddr, known: Source, now: Instant) -> Admission {
        let ripe = |pending: &&Pending| now >= pending.since + GRACE;
        let limit = match known {
            Source::Member => PENDING_MAX,
            Source::Stranger => PENDING_PER_STRANGER,
        };
        let mut same = self.pending.iter().filter(|pending| pending.source == source);
        let oldest = if same.clone().count() >= limit {
            same.next()
        } else if self.pending.len() >= PENDING_MAX {
            self.pending.front()
        } else {
            return Admission::Admit;
        };
        oldest.filter(ripe).map_or(Admission::Refuse, |old| Admission::AdmitAndEvict(old.key))
    }

    pub(super) fn enter(&mut self, key: usize, source: IpAddr, now: Instant) {
        self.pending.push_back(Pending { key, source, since: now });
    }

    /// The connection proved the key, failed, or was closed.
    pub(super) fn leave(&mut self, key: usize) {
        self.pending.retain(|pending| pending.key != key);
    }

    /// The oldest connection, if its time is over.
    pub(super) fn expired(&self, now: Instant) -> Option<usize> {
        let oldest = self.pending.front()?;
        (now >= oldest.since + PROOF_LIMIT).then_some(oldest.key)
    }

    /// When the oldest connection's time is over.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.pending.front().map(|oldest| oldest.since + PROOF_LIMIT)
    }

    /// The connection to give up when descriptors run out.
    pub(super) fn oldest(&self) -> Option<usize> {
        self.pending.front().map(|oldest| oldest.key)
    }
}

/// Whether an address is one that members of the mesh listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Member,
    Stranger,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_stranger_gets_sixteen_places_and_then_pushes_out_only_its_own() {
        let start = Instant::now();
        let mut gate = Gate::new();
        gate.enter(1000, address(9), start);
        for key in 0..PENDING_PER_STRANGER {
            assert_eq!(gate.judge(address(1), Source::Stranger, start), Admission::Admit);
            gate.enter(key, address(1), start);
        }
        assert_eq!(gate.judge(address(1), Source::Stranger, start), Admission::Refuse);
        assert_eq!(gate.judge(address(2), Source::Stranger, start), Admission::Admit);
        let later = start + GRACE;
        assert_eq!(gate.judge(address(1), Source::Stranger, later), Admission::AdmitAndEvict(0));
        assert_eq!(gate.judge(address(1), Source::Member, start), Admission::Admit);
    }

    #[test]
    fn a_full_house_waits_for_the_oldest_to_ripen() {
        let start = Instant::now();
        let mut gate = Gate::new();
        for key in 0..PENDING_MAX {
            assert_eq!(gate.closed_until(start), None);
            gate.enter(key, address(key as u8), start);
        }
        assert_eq!(gate.closed_until(start), Some(start + GRACE));
        let later = start + GRACE;
        assert_eq!(gate.closed_until(later), None);
        assert_eq!(gate.judge(address(200), Source::Stranger, later), Admission::AdmitAndEvict(0));
        gate.leave(0);
        assert_eq!(gate.judge(address(200), Source::Stranger, start), Admission::Admit);
    }

    #[test]
    fn silence_ends_after_the_limit() {
        let start = Instant::now();
        let mut gate = Gate::new();
        assert_eq!(gate.next_expiry(), None);
        gate.enter(7, address(1), start);
        assert_eq!(gate.expired(start), None);
        assert_eq!(gate.next_expiry(), Some(start + PROOF_LIMIT));
        assert_eq!(gate.expired(start + PROOF_LIMIT), Some(7));
        gate.leave(7);
        assert_eq!(gate.expired(start + PROOF_LIMIT), None);
    }
}
