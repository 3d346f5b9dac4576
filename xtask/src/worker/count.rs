//! Programs whose instructions are counted: one thread, no waiting, the same work in every iteration.
//!
//! `cargo xtask instructions` runs each under callgrind with two numbers of iterations; the difference belongs to the
//! iterations alone.

use std::sync::Arc;
use std::thread;

use allhands_collectives::{
    Board, CallOptions, Communicator, Cores, DType, GroupSpec, Mesh, MeshConfig, Peer, ReduceOp,
    Selection, Shape, Spec, Table, local,
};
use allhands_shm::board::Head;
use allhands_shm::layout::Layout;
use allhands_shm::segment::{OwnSegment, PeerSegment};
use allhands_shm::wake::{Barrier, PeerWaker, Wakers, event};
use allhands_tensor::Kernel;
use allhands_wire::{Descriptor, Header};
use anyhow::{Context, Result, bail, ensure};

/// Ranks of a program: the one whose instructions count, and its puppet.
const WORLD: u32 = 2;

/// Runs `bench-rank count PROGRAM ITERATIONS`.
///
/// # Errors
/// There is no such program, or what it needs is refused.
pub fn main(mut args: impl Iterator<Item = String>) -> Result<()> {
    let program = args.next().context("`count` needs a program")?;
    let iterations: u64 = args.next().context("`count` needs a number of iterations")?.parse()?;
    match program.as_str() {
        "all_reduce_4B_shm" => on_board(&all_reduce(1), 4, iterations),
        "all_reduce_1KiB_shm" => on_board(&all_reduce(256), 1024, iterations),
        "barrier_shm" => on_board(&Spec::new(Shape::Barrier, None, None), 0, iterations),
        "sum_f32_1KiB" => sum(iterations),
        "header_decode" => decode(iterations),
        "fingerprint" => fingerprint(iterations),
        other => bail!("no program is called `{other}`"),
    }
}

fn all_reduce(len: u64) -> Spec {
    Spec::new(Shape::AllReduce { len }, Some(DType::F32), Some(ReduceOp::Sum))
}

/// The boards of two ranks of this process.
fn boards() -> Result<(Board, Board)> {
    let layout = Layout::new(WORLD).context("two ranks share memory")?;
    let segment = || OwnSegment::create(layout.segment_len()).map(Arc::new);
    let own = [segment()?, segment()?];
    let board = |me: usize| -> Result<Board> {
        let theirs = &own[1 - me];
        let peer = Arc::new(PeerSegment::map(theirs.fd(), theirs.len())?);
        let waker = PeerWaker {
            segment: peer.clone(),
            wake: event()?,
            progress: event()?,
            barrier: Barrier::Remote,
        };
        let beside = |own, peer| if me == 0 { vec![own, peer] } else { vec![peer, own] };
        let wakers = beside(None, Some(waker));
        let wakers =
            Arc::new(Wakers::new(layout, own[me].clone(), event()?, Barrier::Remote, wakers));
        let peers = if me == 0 { vec![None, Some(peer)] } else { vec![Some(peer), None] };
        Ok(Board::new(own[me].clone(), peers, me, layout.board_at(), wakers))
    };
    Ok((board(0)?, board(1)?))
}

/// Rank 0's part of a collective whose other rank has published before each call. `len` bytes are published.
fn on_board(spec: &Spec, len: usize, iterations: u64) -> Result<()> {
    let (board, mut puppet) = boards()?;
    let mut fabric = local::fabric(WORLD).into_iter();
    let (links, control) = fabric.next().context("two links")?;
    let _puppets = fabric.next();
    let config = MeshConfig::new(Cores::OneEach);
    let mesh = Mesh::start_shared(Box::new(links), Box::new(control), board, config)?;
    let members = (0..WORLD).map(Peer).collect();
    let group = GroupSpec { id: 1, epoch: 0, members };
    let selection = Selection { table: Table::shared_memory(), ..Selection::default() };
    let group = Communicator::new(Arc::new(mesh), "counted", group, selection)?;
    let options = CallOptions::default();
    let mut data = vec![0; len];
    // The first call tells what the operation is; it waits until a thread has answered in the puppet's name.
    let head = thread::scope(|scope| {
        let puppet = &mut puppet;
        let answer = scope.spawn(move || {
            loop {
                if let Some(head) = puppet.look(0, 0) {
                    answer(puppet, head, len);
                    puppet.take(0, 1);
                    return head;
                }
                thread::yield_now();
            }
        });
        group.run(spec, &options, [], [data.as_mut_slice()])?;
        answer.join().map_err(|_| anyhow::anyhow!("the puppet panicked"))
    })?;
    for seq in 1..=iterations {
        answer(&mut puppet, Head { seq, ..head }, len);
        group.run(spec, &options, [], [data.as_mut_slice()])?;
        puppet.take(0, seq + 1);
    }
    ensure!(data.iter().all(|byte| *byte == 0), "zeros stay zeros");
    Ok(())
}

/// The puppet's part.
fn answer(puppet: &mut Board, head: Head, len: usize) {
    if let Some(room) = puppet.open(len) {
        room.fill(0);
        puppet.publish(&head);
    }
}

fn sum(iterations: u64) -> Result<()> {
    let kernel = Kernel::new(DType::F32, ReduceOp::Sum)?;
    let (mut target, source) = (vec![0_u8; 1024], vec![0_u8; 1024]);
    for _ in 0..iterations {
        kernel.reduce(&mut target, Some(0), &[&source]);
    }
    Ok(())
}

fn decode(iterations: u64) -> Result<()> {
    let bytes = Header { xfer_len: 4096, ..Header::default() }.encode();
    for _ in 0..iterations {
        Header::decode(std::hint::black_box(&bytes))?;
    }
    Ok(())
}

fn fingerprint(iterations: u64) -> Result<()> {
    let descriptor = Descriptor { count: 1024, ..Descriptor::default() };
    for _ in 0..iterations {
        std::hint::black_box(std::hint::black_box(&descriptor).fingerprint());
    }
    Ok(())
}
