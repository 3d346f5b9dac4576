//! Snapshots of what `cargo xtask plan` prints, one file a case in `tests/plans`.
//!
//! `UPDATE_EXPECT=1` writes the files anew; the difference is for a reader to judge.

use std::path::Path;

use allhands_plan::{
    Algorithm, Collective, Description, Locality, MESSAGES_DRAWN_MAX, Plan, RANKS_DRAWN_MAX, Rank,
    Shape, describe, draw,
};

#[track_caller]
fn snapshot(collective: Collective, algorithm: Algorithm, world: u32, len: u64, root: u32) {
    let name = format!("{}-{algorithm}-{world}-{len}-{root}", collective.name());
    let (locality, ranks_modelled) = (Locality::apart(world), vec![64]);
    let (root, algorithm) = (Rank(root), Some(algorithm));
    let elem_size = 4;
    compare(
        &name,
        &Description { collective, len, root, algorithm, locality, elem_size, ranks_modelled },
    );
}

#[track_caller]
fn compare(name: &str, wanted: &Description) {
    let found = describe(wanted).unwrap();
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_EXPECT=1 writes it", path.display()));
    assert!(
        found == expected,
        "{} differs; UPDATE_EXPECT=1 writes it anew. Found:\n{found}",
        path.display()
    );
}

#[test]
fn all_reduce_by_circulant_pattern() {
    snapshot(Collective::AllReduce, Algorithm::Circulant, 6, 7, 0);
}

#[test]
fn all_reduce_between_two_hosts_of_two_ranks() {
    let wanted = Description {
        collective: Collective::AllReduce,
        len: 8,
        root: Rank(0),
        algorithm: Some(Algorithm::Hierarchical),
        locality: Locality::new([0, 0, 1, 1]),
        elem_size: 4,
        ranks_modelled: Vec::new(),
    };
    compare("all_reduce-hierarchical-2x2-8", &wanted);
}

#[test]
fn all_reduce_in_two_shots() {
    snapshot(Collective::AllReduce, Algorithm::TwoShot, 3, 5, 0);
}

#[test]
fn broadcast_by_scatter_and_all_gather() {
    snapshot(Collective::Broadcast, Algorithm::ScatterAllGather, 5, 10, 1);
}

#[test]
fn broadcast_along_a_chain() {
    snapshot(Collective::Broadcast, Algorithm::Chain, 3, 100_000, 2);
}

#[test]
fn reduce_by_binomial_tree() {
    snapshot(Collective::Reduce, Algorithm::Binomial, 6, 8, 3);
}

#[test]
fn gather_by_binomial_tree() {
    snapshot(Collective::Gather, Algorithm::Binomial, 7, 2, 0);
}

#[test]
fn scatter_directly() {
    snapshot(Collective::Scatter, Algorithm::Direct, 4, 3, 1);
}

#[test]
fn all_to_all_by_bruck() {
    snapshot(Collective::AllToAll, Algorithm::Bruck, 5, 2, 0);
}

#[test]
fn barrier_with_three_partners_a_round() {
    snapshot(Collective::Barrier, Algorithm::KAry, 6, 0, 0);
}

#[test]
fn what_is_too_large_or_incomplete_is_told_not_drawn() {
    let shape = Shape::AllReduce { len: 8 };
    let world = RANKS_DRAWN_MAX as u32 + 1;
    let plans = Plan::build_all(&shape, Algorithm::Ring, world).unwrap();
    assert_eq!(draw(&plans), "33 ranks are too many to draw; at most 32\n");

    let plans = Plan::build_all(&shape, Algorithm::Ring, 24).unwrap();
    let drawn = draw(&plans);
    let more = 24 * 2 * 23 - MESSAGES_DRAWN_MAX;
    assert!(drawn.ends_with(&format!("… and {more} more messages\n")), "{drawn}");
    assert_eq!(drawn.lines().count(), 1 + MESSAGES_DRAWN_MAX + 1);

    let told = draw(&plans[1..]);
    assert_eq!(told, "only the plans of all ranks, in their order, can be drawn\n");
}

#[test]
fn rounds_of_the_drawing_are_at_most_those_of_the_proof() {
    for world in [2, 4, 5, 8] {
        for algorithm in [Algorithm::RecursiveDoubling, Algorithm::Ring, Algorithm::TwoShot] {
            let plans = Plan::build_all(&Shape::AllReduce { len: 64 }, algorithm, world).unwrap();
            let rounds = draw(&plans).lines().filter(|line| line.starts_with("round")).count();
            let proved = allhands_plan::check(&plans).unwrap().rounds as usize;
            // The proof lets every message wait for its receive; a drawn one may already be there.
            let alike = world.is_power_of_two() || algorithm != Algorithm::RecursiveDoubling;
            let fits = if alike { rounds == proved } else { rounds <= proved };
            assert!(fits, "{algorithm}, {world} ranks: {rounds} drawn, {proved} proved");
        }
    }
}
