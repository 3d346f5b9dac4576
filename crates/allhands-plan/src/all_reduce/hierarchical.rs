//! Hierarchical all-reduce: inside each host, between hosts, inside each host again, chunk by chunk.
//!
//! For every chunk, the m ranks of a host reduce-scatter among themselves (directly), so that each holds the
//! sum of its host for 1/m of the chunk; the ranks that hold the same elements on different hosts all-reduce
//! them (circulant, H hosts); the ranks of a host give each other the results. Every rank of a host uses the
//! link between hosts at the same time, and each host sends `2(H−1)/H n` bytes, which is the least possible.
//!
//! Hosts may have different numbers of ranks: a chunk is cut wherever any host cuts it. Each such cell has
//! one owner on each host, and is all-reduced between its owners.
//!
//! Each stage has its own lanes, which take one chunk after the other: while one chunk travels between
//! hosts, the next is combined inside them and the last one is given out.

use smallvec::SmallVec;

use super::circulant::{Lanes, Waits, rounds};
use crate::blocks::Blocks;
use crate::builder::Builder;
use crate::locality::Locality;
use crate::plan::{Buffer, Finish, Local, Plan, Rank, Span};
use crate::rounds::skips;

/// Elements of a chunk for each rank: long against a message's latency.
pub(crate) const CHUNK: u64 = 16 * 1024;

/// Most chunks; longer buffers get longer chunks. The first chunk's way inside the host and the last one's
/// are not overlapped with anything, so a few dozen leave little to gain.
const CHUNKS_MAX: u64 = 32;

const SHARES: u32 = 0;
const COMBINES: u32 = 1;
const GIVES: u32 = 2;
const TAKES: u32 = 3;
/// Rounds between hosts have the lanes from here on.
const ROUNDS: u32 = 4;
const BETWEEN: Lanes = Lanes::Apart(ROUNDS);

/// Lanes that a plan for these hosts may need.
pub(super) fn lanes(locality: &Locality) -> usize {
    (ROUNDS + BETWEEN.count(skips(locality.hosts()).count() as u32)) as usize
}

/// Where a chunk is cut: each host cuts it evenly between its ranks.
struct Chunk<'a> {
    at: u64,
    len: u64,
    locality: &'a Locality,
}

impl Chunk<'_> {
    /// First element of the part of member `number` of a host with `members`, from the chunk's first.
    fn cut(&self, members: u32, number: u32) -> u64 {
        Blocks::balanced(self.len, members).offset(number)
    }

    /// The part of member `number` of a host.
    fn part(&self, members: u32, number: u32) -> Span {
        let (from, to) = (self.cut(members, number), self.cut(members, number + 1));
        Span::new(Buffer::Data, self.at + from, to - from)
    }

    /// The cells of a part, in order: it is cut where any host cuts.
    fn cells(&self, part: Span) -> Vec<Span> {
        let mut cuts = vec![part.offset, part.end()];
        let mut sizes: SmallVec<[u32; 8]> =
            (0..self.locality.hosts()).map(|h| self.locality.members(h).len() as u32).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for members in sizes {
            let inside = (1..members).map(|number| self.at + self.cut(members, number));
            cuts.extend(inside.filter(|cut| part.offset < *cut && *cut < part.end()));
        }
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|w| Span::new(Buffer::Data, w[0], w[1] - w[0])).collect()
    }

    /// Who owns a cell on a host: the member whose part holds it.
    fn owner(&self, host: u32, cell: Span) -> Rank {
        let members = self.locality.members(host);
        let cuts = Blocks::balanced(self.len, members.len() as u32);
        // The last part that begins there or before; parts without elements come after all others.
        let mut number = 0;
        while (number + 1) < members.len() as u32
            && self.at + cuts.offset(number + 1) <= cell.offset
        {
            number += 1;
        }
        members[number as usize]
    }
}

/// Chunks have `each` elements a rank, or more.
pub(super) fn build(mut pen: Builder, len: u64, locality: &Locality, each: u64) -> Plan {
    let rank = pen.rank();
    let host = locality.host(rank).unwrap_or(0);
    let members = locality.members(host);
    let mine = members.partition_point(|member| *member < rank) as u32;
    let chunks = (len / (each * u64::from(pen.world()))).clamp(1, CHUNKS_MAX) as u32;
    let cuts = Blocks::balanced(len, chunks);
    for number in 0..chunks {
        let chunk = Chunk { at: cuts.offset(number), len: cuts.len(number), locality };
        let count = members.len() as u32;
        let part = |member: u32| chunk.part(count, member);
        let own = part(mine);
        // Nearest above first, so that no two ranks begin with the same partner.
        let others = || (1..count).map(move |d| (mine + d) % count);
        let mut ready = Waits::new();
        if count > 1 {
            let shares = others().map(|member| (members[member as usize], part(member)));
            pen.send(SHARES, "share with host", &[], shares);
            let peers = members.iter().copied().filter(|member| *member != rank);
            let local = Some(Local { span: own, at: mine });
            pen.recv_reduce(COMBINES, "combine of host", &[], peers, local, own, Finish::Keep);
            ready.push((COMBINES, pen.steps_in(COMBINES)));
        }
        let mut done = Waits::new();
        // A cell without elements is nobody's.
        for cell in chunk.cells(own).into_iter().filter(|cell| cell.len > 0) {
            let owner = |host: Rank| chunk.owner(host.0, cell);
            done = rounds(&mut pen, &owner, locality.hosts(), Rank(host), cell, BETWEEN, &ready);
        }
        if count > 1 {
            pen.send(GIVES, "give to host", &done, others().map(|m| (members[m as usize], own)));
            // Results overwrite the contributions that were sent, and nothing else.
            let sent = [(SHARES, pen.steps_in(SHARES))];
            let takes = others().map(|member| (members[member as usize], part(member)));
            pen.recv(TAKES, "take from host", &sent, takes);
        }
    }
    pen.build()
}
