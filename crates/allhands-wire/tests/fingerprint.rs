//! Fingerprints: two different operations differ, and the error can say in what.

use allhands_wire::{Field, Fingerprint, FingerprintParts};
use proptest::prelude::*;

fn parts() -> impl Strategy<Value = FingerprintParts> {
    let codes = (0u8..64, 0u8..16, 0u8..32, any::<u8>());
    let root = prop::option::of(0..Fingerprint::NO_ROOT);
    (codes, root, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |((op, reduce_op, dtype, algorithm), root, count, premul_bits, extra)| FingerprintParts {
            op,
            reduce_op,
            dtype,
            root,
            count,
            algorithm,
            premul_bits,
            extra,
        },
    )
}

/// The value is part of the wire format: ranks on different machines must agree.
#[test]
fn value_is_fixed() {
    let parts = FingerprintParts {
        op: 1,
        reduce_op: 2,
        dtype: 3,
        root: Some(4),
        count: 5,
        algorithm: 6,
        premul_bits: 7,
        extra: 8,
    };
    let packed = 1u64 << 58 | 2 << 54 | 3 << 49 | 4 << 32;
    let fingerprint = Fingerprint::new(parts);
    assert_eq!(fingerprint.0 >> 32, packed >> 32);
    // The hash once more, written out, with 128-bit products instead of wrapping ones.
    let words = [1 | 2 << 8 | 3 << 16 | 6 << 24 | 4 << 32, 5, 7, 8, 0];
    let hash = words.iter().fold(0x2545_F491_4F6C_DD1D_u64, |state, word| {
        let product = (u128::from(state ^ word) * 0x9E37_79B9_7F4A_7C15) as u64;
        product ^ product >> 32
    });
    assert_eq!(fingerprint.hash(), hash as u32);
    assert_eq!(fingerprint.0, 0x0486_0004_0000_0000 | u64::from(hash as u32));
}

#[test]
fn differences_name_the_fields() {
    let mine = FingerprintParts { op: 1, reduce_op: 1, dtype: 1, count: 10, ..Default::default() };
    let named = |theirs: FingerprintParts| {
        Fingerprint::new(mine).differences(Fingerprint::new(theirs)).to_string()
    };
    assert_eq!(named(mine), "");
    assert_eq!(named(FingerprintParts { op: 2, ..mine }), "operation");
    assert_eq!(named(FingerprintParts { reduce_op: 4, dtype: 3, ..mine }), "reduction, dtype");
    assert_eq!(named(FingerprintParts { root: Some(0), ..mine }), "root");
    let details = "count, algorithm or other details";
    assert_eq!(named(FingerprintParts { count: 11, ..mine }), details);
    assert_eq!(named(FingerprintParts { algorithm: 1, ..mine }), details);
    assert_eq!(named(FingerprintParts { premul_bits: 1, ..mine }), details);
    assert_eq!(named(FingerprintParts { extra: 1, ..mine }), details);
}

#[test]
fn a_code_too_large_for_its_bits_still_differs() {
    let small = FingerprintParts { op: 1, ..Default::default() };
    let large = FingerprintParts { op: 1 + 64, ..small };
    let far_root = FingerprintParts { root: Some(1 << 20), ..small };
    let farther_root = FingerprintParts { root: Some(1 << 21), ..small };
    for (a, b) in [(small, large), (far_root, farther_root), (small, far_root)] {
        assert_ne!(Fingerprint::new(a), Fingerprint::new(b));
    }
}

/// 32 bits of hash over a few hundred thousand near neighbours: about as many collisions as
/// chance allows, so no input bit is lost on the way.
#[test]
fn neighbours_hardly_collide() {
    let mut hashes: Vec<u32> = (0u64..200_000)
        .map(|count| Fingerprint::new(FingerprintParts { count, ..Default::default() }).hash())
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    // Expected by chance: 200 000² / 2³³ = 4.7.
    assert!(hashes.len() > 200_000 - 20, "{} collisions", 200_000 - hashes.len());
}

proptest! {
    #[test]
    fn packed_fields_come_back(parts in parts()) {
        let fingerprint = Fingerprint::new(parts);
        prop_assert_eq!(fingerprint.op(), parts.op);
        prop_assert_eq!(fingerprint.reduce_op(), parts.reduce_op);
        prop_assert_eq!(fingerprint.dtype(), parts.dtype);
        prop_assert_eq!(fingerprint.root(), parts.root);
    }

    #[test]
    fn differences_are_symmetric_and_exact(a in parts(), b in parts()) {
        let (x, y) = (Fingerprint::new(a), Fingerprint::new(b));
        let differences = x.differences(y);
        prop_assert_eq!(differences, y.differences(x));
        let fields: Vec<Field> = differences.iter().collect();
        prop_assert_eq!(fields.contains(&Field::Op), a.op != b.op);
        prop_assert_eq!(fields.contains(&Field::ReduceOp), a.reduce_op != b.reduce_op);
        prop_assert_eq!(fields.contains(&Field::Dtype), a.dtype != b.dtype);
        prop_assert_eq!(fields.contains(&Field::Root), a.root != b.root);
        prop_assert_eq!(differences.is_empty(), x == y);
    }

    /// One changed word never collides before the fold to 32 bits, and practically never after.
    #[test]
    fn one_changed_word_shows(parts in parts(), other in any::<u64>()) {
        prop_assume!(parts.count != other);
        let theirs = FingerprintParts { count: other, ..parts };
        prop_assert_ne!(Fingerprint::new(parts), Fingerprint::new(theirs));
    }
}
