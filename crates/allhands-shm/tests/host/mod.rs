//! Ranks of a host that meet, in threads and in processes.
#![allow(dead_code, reason = "each test file uses a part")]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_shm::board::Board;
use allhands_shm::layout::Layout;
use allhands_shm::links::{HostLink, HostLinks};
use allhands_shm::meet::{HostPeer, Listener, MeetError, Name, Offer, dial};
use allhands_shm::ring::ends;
use allhands_shm::segment::OwnSegment;
use allhands_shm::wake::{Barrier, ProgressEvent, Wakers, event};
use allhands_transport::tcp::{Membership, TcpLinks};
use allhands_wire::{JobKey, Peer};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::ranks::{find, leave};

/// Long enough for a loaded machine; reached only where something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Met = Vec<Option<Result<HostPeer, MeetError>>>;

/// A rank that listens.
pub(crate) struct Rank {
    pub(crate) member: Membership,
    pub(crate) layout: Layout,
    pub(crate) listener: Listener,
    pub(crate) offer: Offer,
}

/// A rank that shares memory with all others.
pub(crate) struct Shared {
    pub(crate) board: Board,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) hosts: Vec<Option<HostLink>>,
    pub(crate) progress: OwnedFd,
}

pub(crate) fn member(me: u32, world: u32) -> Membership {
    let key = JobKey::new([7; 32]);
    Membership { job_id: "test".to_owned(), key, epoch: 0, me: Peer(me), world }
}

impl Rank {
    pub(crate) fn new(me: u32, world: u32) -> Self {
        let layout = Layout::new(world).unwrap();
        let segment = Arc::new(OwnSegment::create(layout.segment_len()).unwrap());
        let (wake, progress, barrier) = (event().unwrap(), event().unwrap(), Barrier::register());
        let offer = Offer { segment, wake, progress, barrier, arena: None };
        Self { member: member(me, world), layout, listener: Listener::open().unwrap(), offer }
    }

    pub(crate) fn index(&self) -> usize {
        self.member.me.index()
    }

    /// Meets all others, who listen.
    pub(crate) fn meet(&self, names: &[Option<Name>], patience: Duration) -> Met {
        let reached = dial(names, self.member.me);
        let everybody = vec![true; names.len()];
        let deadline = Instant::now() + patience;
        self.listener.meet(&self.member, self.layout, &self.offer, reached, &everybody, deadline)
    }

    /// Meets the other processes of the test, whose names are in `folder`.
    pub(crate) fn meet_in(self, folder: &Path) -> Shared {
        let name = self.listener.name().map(|byte| byte.to_string()).join(" ");
        leave(folder, &format!("name-{}", self.index()), &name);
        let read = |rank: u32| {
            let text = find(folder, &format!("name-{rank}"), PATIENCE);
            let bytes: Vec<u8> = text.split(' ').map(|byte| byte.parse().unwrap()).collect();
            Some(Name::try_from(bytes).unwrap())
        };
        let names: Vec<_> = (0..self.member.world).map(read).collect();
        let met = self.meet(&names, PATIENCE);
        self.share(met)
    }

    /// Uses the memory of all others.
    pub(crate) fn share(self, met: Met) -> Shared {
        let me = self.index();
        let Offer { segment, wake, progress, barrier, .. } = self.offer;
        let (mut hosts, mut wakers, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for (rank, result) in met.into_iter().enumerate() {
            let peer = result.map(|result| result.unwrap_or_else(|e| panic!("rank {me}: {e}")));
            assert_eq!(peer.is_none(), rank == me);
            hosts.push(
                peer.as_ref().map(|peer| ends(self.layout, &segment, me, &peer.segment, rank)),
            );
            segments.push(peer.as_ref().map(|peer| peer.segment.clone()));
            wakers.push(peer);
        }
        let mut processes = Vec::new();
        let wakers = wakers.into_iter().map(|peer| {
            let (waker, process) = peer.map(|peer| (peer.waker, peer.process)).unzip();
            processes.push(process.flatten());
            waker
        });
        let wakers = wakers.collect();
        let wakers = Arc::new(Wakers::new(self.layout, segment.clone(), wake, barrier, wakers));
        let at = self.layout.board_at();
        let board = Board::new(segment, segments, me, at, wakers.clone());
        let hosts = hosts.into_iter().zip(processes).map(|(ends, process)| {
            ends.map(|(writer, reader)| HostLink { writer, reader, process })
        });
        Shared { board, wakers, hosts: hosts.collect(), progress }
    }
}

impl Shared {
    /// Links through rings, over `below`.
    pub(crate) fn links(self, below: TcpLinks) -> HostLinks {
        below.watch(self.wakers.descriptor()).unwrap();
        HostLinks::new(Box::new(below), self.hosts, self.wakers, ProgressEvent(self.progress))
    }
}

/// Ranks that are threads of this process, after their meeting.
pub(crate) fn threads(world: u32) -> Vec<Shared> {
    let ranks: Vec<_> = (0..world).map(|me| Rank::new(me, world)).collect();
    let names: Vec<_> = ranks.iter().map(|rank| Some(rank.listener.name())).collect();
    std::thread::scope(|scope| {
        let meet = |rank: Rank| {
            let names = &names;
            scope.spawn(move || {
                let met = rank.meet(names, PATIENCE);
                rank.share(met)
            })
        };
        let ranks: Vec<_> = ranks.into_iter().map(meet).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Sleeps until a peer wakes it, unless `ready` finds something. A wake-up that does not come is a failure.
pub(crate) fn sleep(wakers: &Wakers, mut ready: impl FnMut() -> bool) {
    wakers.arm();
    if !ready() {
        let event = wakers.descriptor();
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut polled = [PollFd::new(&event, PollFlags::IN)];
        let woken = rustix::event::poll(&mut polled, Some(&patience)).unwrap();
        assert_eq!(woken, 1, "nobody woke it within {PATIENCE:?}");
    }
    wakers.disarm();
    let _ = rustix::io::read(wakers.descriptor(), &mut [0; 8]);
}
