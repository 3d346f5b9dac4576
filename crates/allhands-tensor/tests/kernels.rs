//! Every kernel against a naive oracle: one element at a time, the canonical tree spelled out,
//! halves through the `half` crate, integers through `i128`.
#![allow(clippy::print_stderr)]

use allhands_tensor::{
    Bool, DType, Element, Kernel, ReduceOp, SIMD_VARIABLE, SimdLevel, bf16, f16,
};
use proptest::prelude::*;
use std::io::Write as _;

const OPS: [ReduceOp; 9] = [
    ReduceOp::Sum,
    ReduceOp::Product,
    ReduceOp::Min,
    ReduceOp::Max,
    ReduceOp::BitAnd,
    ReduceOp::BitOr,
    ReduceOp::BitXor,
    ReduceOp::Avg,
    ReduceOp::PremulSum(0.3),
];

/// The levels of this processor. A missing one is reported, or fails the test where it is required.
fn levels() -> Vec<SimdLevel> {
    let (have, lack): (Vec<_>, Vec<_>) = SimdLevel::ALL.into_iter().partition(|l| l.is_available());
    for level in lack {
        let variable = format!("ALLHANDS_REQUIRE_{}", level.name().to_uppercase());
        assert!(std::env::var_os(&variable).is_none(), "{variable} is set, {level} is not there");
        writeln!(std::io::stderr(), "SKIP {level}: this processor lacks it")
            .expect("standard error is open");
    }
    have
}

/// xorshift64*, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// An element as the oracle computes with it.
trait Oracle: Element {
    /// f32 for the halves, else the type itself.
    type Wide: Copy;
    fn widen(self) -> Self::Wide;
    /// Rounds, and replaces a NaN by the canonical one.
    fn narrow(wide: Self::Wide) -> Self;
    fn combine(op: ReduceOp, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// A value from random bits: all patterns, but special ones more often.
    fn random(random: &mut Random) -> Self;
}

macro_rules! float_combine {
    ($wide:ty) => {
        fn combine(op: ReduceOp, a: $wide, b: $wide) -> $wide {
            match op {
                ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PremulSum(_) => a + b,
                ReduceOp::Product => a * b,
                _ if a.is_nan() || b.is_nan() => <$wide>::NAN,
                // The total order puts -0 before +0.
                ReduceOp::Min => [a, b][usize::from(a.total_cmp(&b).is_gt())],
                ReduceOp::Max => [a, b][usize::from(a.total_cmp(&b).is_lt())],
                _ => unreachable!("not defined for floats"),
            }
        }
    };
}

macro_rules! float_oracle {
    ($t:ty, $bits:ty, $wide:ty, $nan:expr, |$value:ident| $widen:expr, |$result:ident| $narrow:expr) => {
        impl Oracle for $t {
            type Wide = $wide;

            fn widen(self) -> $wide {
                let $value = self;
                $widen
            }

            fn narrow($result: $wide) -> $t {
                if $result.is_nan() { <$t>::from_bits($nan) } else { $narrow }
            }

            float_combine!($wide);

            fn random(random: &mut Random) -> $t {
                let bits = random.next();
                let specials: [$t; 8] = [
                    <$t>::INFINITY,
                    <$t>::NEG_INFINITY,
                    <$t>::from_bits(0),
                    <$t>::from_bits(1 << (<$bits>::BITS - 1)),
                    <$t>::from_bits(1),
                    <$t>::MAX,
                    <$t>::MIN_POSITIVE,
                    // A signalling NaN with a payload.
                    <$t>::from_bits(<$t>::INFINITY.to_bits() | 5),
                ];
                match random.below(16) {
                    0 => specials[random.below(8)],
                    1..=4 => <$t>::from_bits(bits as $bits),
                    // Numbers of similar size, so that rounding matters.
                    _ => Self::narrow(((bits >> 40) as i32 - (1 << 23)) as $wide / 65536.0),
                }
            }
        }
    };
}

float_oracle!(f32, u32, f32, 0x7fc0_0000, |v| v, |r| r);
float_oracle!(f64, u64, f64, 0x7ff8_0000_0000_0000, |v| v, |r| r);
float_oracle!(f16, u16, f32, 0x7e00, |v| v.to_f32(), |r| f16::from_f32(r));
float_oracle!(bf16, u16, f32, 0x7fc0, |v| v.to_f32(), |r| bf16::from_f32(r));

macro_rules! int_oracle {
    ($($t:ty, |$value:ident| $widen:expr, |$result:ident| $narrow:expr;)*) => {$(
        impl Oracle for $t {
            type Wide = i128;

            fn widen(self) -> i128 {
                let $value = self;
                i128::from($widen)
            }

            fn narrow($result: i128) -> $t {
                $narrow
            }

            fn combine(op: ReduceOp, a: i128, b: i128) -> i128 {
                let wide = match op {
                    ReduceOp::Sum => a + b,
                    ReduceOp::Product => a.wrapping_mul(b),
                    ReduceOp::Min => a.min(b),
                    ReduceOp::Max => a.max(b),
                    ReduceOp::BitAnd => a & b,
                    ReduceOp::BitOr => a | b,
                    ReduceOp::BitXor => a ^ b,
                    _ => unreachable!("not defined for integers"),
                };
                // Wraps here, so that the order of the next one is that of the type.
                Self::narrow(wide).widen()
            }

            fn random(random: &mut Random) -> $t {
                let bits = i128::from(random.next() as i64);
                Self::narrow(if random.below(4) == 0 { bits % 3 } else { bits })
            }
        }
    )*};
}

int_oracle! {
    i8, |v| v, |r| r as i8;
    u8, |v| v, |r| r as u8;
    i16, |v| v, |r| r as i16;
    u16, |v| v, |r| r as u16;
    i32, |v| v, |r| r as i32;
    u32, |v| v, |r| r as u32;
    i64, |v| v, |r| r as i64;
    u64, |v| v, |r| r as u64;
    // As torch (gloo) has it: a boolean is an unsigned byte, whatever it holds.
    Bool, |v| v.0, |r| Bool(r as u8);
}

/// The canonical tree, straight from its definition.
fn tree<T: Oracle>(op: ReduceOp, mut level: Vec<T::Wide>) -> T::Wide {
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match *pair {
                [a, b] => T::combine(op, a, b),
                _ => pair[0],
            })
            .collect();
    }
    level[0]
}

fn oracle<T: Oracle>(op: ReduceOp, operands: &[Vec<T>]) -> Vec<T> {
    let one = |index: usize| {
        let values: Vec<_> = operands.iter().map(|operand| operand[index].widen()).collect();
        T::narrow(tree::<T>(op, values))
    };
    match operands {
        [single] => single.clone(),
        _ => (0..operands[0].len()).map(one).collect(),
    }
}

/// A byte buffer in which `values` start `offset` bytes after a multiple of 64, fenced by 0xa5.
struct Fenced {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Fenced {
    fn new<T: Element>(values: &[T], offset: usize) -> Self {
        let payload = bytemuck::cast_slice::<T, u8>(values);
        let mut bytes = vec![0xa5u8; payload.len() + 256];
        let start = 64 + bytes.as_ptr().align_offset(64) + offset;
        bytes[start..start + payload.len()].copy_from_slice(payload);
        Fenced { bytes, start, len: payload.len() }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    fn assert_fence(&self) {
        let end = self.start + self.len;
        assert!(self.bytes[..self.start].iter().all(|&b| b == 0xa5), "written before the start");
        assert!(self.bytes[end..].iter().all(|&b| b == 0xa5), "written after the end");
    }
}

/// One reduction of random values, compared with the oracle bit by bit.
struct Case {
    op: ReduceOp,
    level: SimdLevel,
    operands: usize,
    at: Option<usize>,
    len: usize,
    seed: u64,
}

fn check_case<T: Oracle>(case: &Case) {
    let &Case { op, level, operands, at, len, seed } = case;
    let kernel = Kernel::with_level(T::DTYPE, op, level).expect("defined");
    assert_eq!(kernel.level(), level);
    let mut random = Random::new(seed);
    let values: Vec<Vec<T>> =
        (0..operands).map(|_| (0..len).map(|_| T::random(&mut random)).collect()).collect();
    let expected = oracle(op, &values);

    let buffers: Vec<_> = values.iter().map(|v| Fenced::new(v, random.below(64))).collect();
    let sources: Vec<&[u8]> =
        (0..operands).filter(|&i| at != Some(i)).map(|i| buffers[i].get()).collect();
    let rubbish: Vec<T> = (0..len).map(|_| T::random(&mut random)).collect();
    let mut dst = Fenced::new(at.map_or(&rubbish, |at| &values[at]), random.below(64));
    kernel.reduce(dst.get_mut(), at, &sources);

    dst.assert_fence();
    let expected = bytemuck::cast_slice::<T, u8>(&expected);
    if dst.get() != expected {
        let size = size_of::<T>();
        let at_element =
            (0..len).find(|i| dst.get()[i * size..][..size] != expected[i * size..][..size]);
        let i = at_element.unwrap_or(0);
        let inputs: Vec<T> = values.iter().map(|v| v[i]).collect();
        panic!(
            "{} {op} at {level}: {operands} operands, own at {at:?}, {len} elements, seed {seed}: \
             element {i} of {inputs:?} is {:x?}, expected {:x?}",
            T::DTYPE,
            &dst.get()[i * size..][..size],
            &expected[i * size..][..size],
        );
    }
}

fn check(dtype: DType, case: &Case) {
    match dtype {
        DType::F32 => check_case::<f32>(case),
        DType::F64 => check_case::<f64>(case),
        DType::F16 => check_case::<f16>(case),
        DType::BF16 => check_case::<bf16>(case),
        DType::I8 => check_case::<i8>(case),
        DType::U8 => check_case::<u8>(case),
        DType::I16 => check_case::<i16>(case),
        DType::U16 => check_case::<u16>(case),
        DType::I32 => check_case::<i32>(case),
        DType::U32 => check_case::<u32>(case),
        DType::I64 => check_case::<i64>(case),
        DType::U64 => check_case::<u64>(case),
        DType::Bool => check_case::<Bool>(case),
    }
}

fn defined(dtype: DType, op: ReduceOp) -> bool {
    match op {
        ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => !dtype.is_float(),
        ReduceOp::Avg | ReduceOp::PremulSum(_) => dtype.is_float(),
        _ => true,
    }
}

fn pairs() -> impl Iterator<Item = (DType, ReduceOp)> {
    let all = DType::ALL.into_iter().flat_map(|dtype| OPS.map(|op| (dtype, op)));
    all.filter(|&(dtype, op)| defined(dtype, op))
}

#[test]
fn every_kernel_equals_the_oracle_for_every_number_of_operands_and_position() {
    let lens =
        [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 255, 257, 300, 515];
    let mut random = Random::new(1);
    for level in levels() {
        for (dtype, op) in pairs() {
            for operands in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 65] {
                let positions = (0..operands).map(Some).chain([None]);
                for at in positions.filter(|at| operands < 10 || at.is_none_or(|at| at % 7 == 2)) {
                    let len = lens[random.below(lens.len())];
                    let seed = random.next() >> 32;
                    check(dtype, &Case { op, level, operands, at, len, seed });
                }
            }
        }
    }
}

#[test]
fn every_length_and_alignment_gives_the_same() {
    for level in levels() {
        for dtype in DType::ALL {
            for len in 0..=300 {
                let case =
                    |operands, at, seed| Case { op: ReduceOp::Sum, level, operands, at, len, seed };
                check(dtype, &case(2, Some(1), len as u64));
                check(dtype, &case(3, None, 1000 + len as u64));
            }
        }
    }
}

#[test]
fn hundreds_of_operands_still_follow_the_tree() {
    for level in levels() {
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::I64] {
            for operands in [100, 127, 128, 129, 255, 256, 257, 511, 1000] {
                let at = Some(operands / 3);
                let case = Case { op: ReduceOp::Sum, level, operands, at, len: 9, seed: 7 };
                check(dtype, &case);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_reductions_equal_the_oracle(
        which in any::<prop::sample::Index>(),
        level in any::<prop::sample::Index>(),
        operands in 1usize..40,
        position in prop::option::of(any::<prop::sample::Index>()),
        len in 0usize..700,
        seed in any::<u32>(),
    ) {
        let all: Vec<_> = pairs().collect();
        let (dtype, op) = *which.get(&all);
        let at = position.map(|index| index.index(operands));
        let level = *level.get(&levels());
        check(dtype, &Case { op, level, operands, at, len, seed: u64::from(seed) });
    }

    #[test]
    fn cutting_a_reduction_into_chunks_changes_nothing(
        which in any::<prop::sample::Index>(),
        operands in 2usize..20,
        cut in 0usize..500,
        seed in any::<u32>(),
    ) {
        let all: Vec<_> = pairs().collect();
        let (dtype, op) = *which.get(&all);
        let mut random = Random::new(u64::from(seed));
        let size = dtype.size();
        let len = 500 * size;
        let buffers: Vec<Vec<u8>> =
            (0..operands).map(|_| (0..len).map(|_| random.next() as u8).collect()).collect();
        let sources: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        let mut results = Vec::new();
        for level in levels() {
            let kernel = Kernel::with_level(dtype, op, level).expect("defined");
            let mut whole = vec![0; len];
            kernel.reduce(&mut whole, None, &sources);
            let mut parts = vec![0; len];
            let (left, right) = parts.split_at_mut(cut * size);
            let lefts: Vec<&[u8]> = sources.iter().map(|s| &s[..cut * size]).collect();
            let rights: Vec<&[u8]> = sources.iter().map(|s| &s[cut * size..]).collect();
            kernel.reduce(left, None, &lefts);
            kernel.reduce(right, None, &rights);
            prop_assert_eq!(&whole, &parts);
            results.push(whole);
        }
        prop_assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "levels differ");
    }
}

/// All 2^16 bit patterns of a half, combined with `other`, by `op`, at every level.
fn exhaustive<T: Oracle>(op: ReduceOp, other: T, from_bits: impl Fn(u16) -> T) {
    let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
    let others = vec![other; all.len()];
    let expected = oracle(op, &[all.clone(), others.clone()]);
    for level in levels() {
        let kernel = Kernel::with_level(T::DTYPE, op, level).expect("defined");
        let mut out = vec![T::zeroed(); all.len()];
        let sources = [bytemuck::cast_slice(&all), bytemuck::cast_slice(&others)];
        kernel.reduce(bytemuck::cast_slice_mut(&mut out), None, &sources);
        let (out, expected) =
            (bytemuck::cast_slice::<T, u16>(&out), bytemuck::cast_slice::<T, u16>(&expected));
        let wrong = (0..out.len()).find(|&i| out[i] != expected[i]);
        if let Some(i) = wrong {
            panic!("{} {op} at {level}: {i:#06x} with {other:?} gives {:#06x}", T::DTYPE, out[i]);
        }
    }
}

#[test]
fn every_half_converts_to_f32_and_back() {
    for (op, neutral) in [
        (ReduceOp::Sum, -0.0),
        (ReduceOp::Product, 1.0),
        (ReduceOp::Max, f32::NEG_INFINITY),
        (ReduceOp::Min, f32::INFINITY),
    ] {
        exhaustive(op, f16::from_f32(neutral), f16::from_bits);
        exhaustive(op, bf16::from_f32(neutral), bf16::from_bits);
    }
}

#[test]
fn every_half_rounds_like_the_oracle_after_a_sum_and_a_product() {
    let mut random = Random::new(3);
    for _ in 0..12 {
        let bits = random.next() as u16;
        for op in [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Min, ReduceOp::Max] {
            exhaustive(op, f16::from_bits(bits), f16::from_bits);
            exhaustive(op, bf16::from_bits(bits), bf16::from_bits);
        }
    }
    // Products that fall on, just above and just below the ties of subnormals.
    for factor in [0.5, 0.25, 0.125, 0.75, 1.5, 6.1e-5, 3.0e-5, 5.96e-8] {
        exhaustive(ReduceOp::Product, f16::from_f32(factor), f16::from_bits);
        exhaustive(ReduceOp::Product, bf16::from_f32(factor), bf16::from_bits);
    }
}

fn check_maps<T: Oracle>(divide: impl Fn(T, u32) -> T, scale: impl Fn(T, f64) -> T) {
    let mut random = Random::new(5);
    for level in levels() {
        for len in [0, 1, 2, 7, 16, 33, 1000] {
            let values: Vec<T> = (0..len).map(|_| T::random(&mut random)).collect();
            for world in [1, 2, 3, 7, 1024, 16_384] {
                let kernel = Kernel::with_level(T::DTYPE, ReduceOp::Avg, level).expect("defined");
                let mut buffer = Fenced::new(&values, random.below(64));
                kernel.prepare(buffer.get_mut());
                assert_eq!(
                    buffer.get(),
                    bytemuck::cast_slice::<T, u8>(&values),
                    "avg prepares nothing"
                );
                kernel.finish(buffer.get_mut(), world);
                buffer.assert_fence();
                let expected: Vec<T> = values.iter().map(|&v| divide(v, world)).collect();
                let expected = bytemuck::cast_slice::<T, u8>(&expected);
                assert_eq!(buffer.get(), expected, "{} / {world} at {level}", T::DTYPE);
            }
            for factor in [0.5, 1.0 / 3.0, -7.25, 1e-5, f64::INFINITY] {
                let op = ReduceOp::PremulSum(factor);
                let kernel = Kernel::with_level(T::DTYPE, op, level).expect("defined");
                let mut buffer = Fenced::new(&values, random.below(64));
                kernel.prepare(buffer.get_mut());
                kernel.finish(buffer.get_mut(), 3);
                buffer.assert_fence();
                let expected: Vec<T> = values.iter().map(|&v| scale(v, factor)).collect();
                let expected = bytemuck::cast_slice::<T, u8>(&expected);
                assert_eq!(buffer.get(), expected, "{} * {factor} at {level}", T::DTYPE);
            }
        }
    }
}

#[test]
fn means_divide_and_scaled_sums_multiply_once() {
    check_maps::<f32>(|v, n| f32::narrow(v / n as f32), |v, f| f32::narrow(v * f as f32));
    check_maps::<f64>(|v, n| f64::narrow(v / f64::from(n)), |v, f| f64::narrow(v * f));
    check_maps::<f16>(
        |v, n| f16::narrow(v.to_f32() / n as f32),
        |v, f| f16::narrow(v.to_f32() * f as f32),
    );
    check_maps::<bf16>(
        |v, n| bf16::narrow(v.to_f32() / n as f32),
        |v, f| bf16::narrow(v.to_f32() * f as f32),
    );
}

#[test]
fn other_operations_neither_prepare_nor_finish() {
    for (dtype, op) in
        pairs().filter(|(_, op)| !matches!(op, ReduceOp::Avg | ReduceOp::PremulSum(_)))
    {
        let kernel = Kernel::new(dtype, op).expect("defined");
        let original: Vec<u8> = (0..64).map(|i| i * 3).collect();
        let mut bytes = original.clone();
        kernel.prepare(&mut bytes);
        kernel.finish(&mut bytes, 4);
        assert_eq!(bytes, original, "{dtype} {op}");
    }
}

#[test]
fn what_is_not_defined_is_an_error_that_says_what_to_do() {
    let error = Kernel::new(DType::BF16, ReduceOp::BitXor).expect_err("bits of floats");
    assert_eq!(
        error.to_string(),
        "bit-xor is not defined for bf16: bit operations need integers or booleans; reinterpret \
         the bytes as an unsigned type"
    );
    let error = Kernel::new(DType::I32, ReduceOp::Avg).expect_err("a mean of integers");
    assert_eq!(
        error.to_string(),
        "avg is not defined for i32: it needs a floating-point type; sum, then divide or scale \
         the integers yourself"
    );
    for dtype in DType::ALL {
        for op in OPS {
            for level in levels() {
                assert_eq!(Kernel::with_level(dtype, op, level).is_ok(), defined(dtype, op));
            }
        }
    }
}

#[test]
fn the_sum_of_booleans_counts_as_torch_does() {
    let kernel = Kernel::new(DType::Bool, ReduceOp::Sum).expect("defined");
    let mut dst = [1u8, 0, 1];
    kernel.reduce(&mut dst, Some(0), &[&[1, 0, 0], &[1, 1, 0]]);
    assert_eq!(dst, [3, 1, 1]);
}

#[test]
fn zeros_are_ordered_and_nan_wins() {
    let run = |op, a: f32, b: f32| {
        let kernel = Kernel::new(DType::F32, op).expect("defined");
        let mut out = [0u8; 4];
        kernel.reduce(&mut out, None, &[&a.to_ne_bytes(), &b.to_ne_bytes()]);
        u32::from_ne_bytes(out)
    };
    assert_eq!(run(ReduceOp::Max, -0.0, 0.0), 0.0f32.to_bits());
    assert_eq!(run(ReduceOp::Max, 0.0, -0.0), 0.0f32.to_bits());
    assert_eq!(run(ReduceOp::Min, -0.0, 0.0), (-0.0f32).to_bits());
    assert_eq!(run(ReduceOp::Min, 0.0, -0.0), (-0.0f32).to_bits());
    for op in [ReduceOp::Min, ReduceOp::Max, ReduceOp::Sum, ReduceOp::Product] {
        assert_eq!(run(op, f32::from_bits(0xffc0_1234), 1.0), 0x7fc0_0000);
        assert_eq!(run(op, 1.0, f32::from_bits(0x7f80_0001)), 0x7fc0_0000);
    }
    assert_eq!(run(ReduceOp::Sum, f32::INFINITY, f32::NEG_INFINITY), 0x7fc0_0000);
}

/// The message with which `body` panics.
fn panic_message(body: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(body).expect_err("must panic");
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| {
        payload.downcast_ref::<&str>().map_or_else(String::new, |text| (*text).to_owned())
    })
}

#[test]
fn operands_that_do_not_fit_are_refused_before_a_byte_is_touched() {
    let kernel = Kernel::new(DType::F32, ReduceOp::Sum).expect("defined");
    let message = panic_message(move || kernel.reduce(&mut [0; 8], Some(0), &[&[0; 4]]));
    assert_eq!(message, "source 0 has 4 bytes, the destination 8");
    let message = panic_message(move || kernel.reduce(&mut [0; 6], Some(0), &[&[0; 6]]));
    assert_eq!(message, "6 bytes are not a whole number of f32");
    let message = panic_message(move || kernel.reduce(&mut [0; 4], Some(2), &[&[0; 4]]));
    assert_eq!(message, "position 2 is beyond the last of 2 operands");
    let message = panic_message(move || kernel.reduce(&mut [0; 4], None, &[]));
    assert_eq!(message, "a reduction needs an operand, got none");
    let avg = Kernel::new(DType::F32, ReduceOp::Avg).expect("defined");
    let message = panic_message(move || avg.finish(&mut [0; 5], 2));
    assert_eq!(message, "5 bytes are not a whole number of f32");
}

#[test]
fn levels_have_names_and_the_best_one_is_there() {
    assert!(SimdLevel::best().is_available());
    for level in SimdLevel::ALL {
        assert_eq!(level.name().parse(), Ok(level));
    }
    let error = "sse9".parse::<SimdLevel>().expect_err("no such level");
    assert_eq!(error.to_string(), "`sse9` is not an instruction set; use generic, avx2 or avx512");
}

/// Set by the next test for its children: the level that they must find active.
const EXPECTED_LEVEL: &str = "ALLHANDS_TEST_EXPECTED_LEVEL";

#[test]
fn the_variable_lowers_the_level_and_nonsense_does_not() {
    if let Ok(expected) = std::env::var(EXPECTED_LEVEL) {
        assert_eq!(SimdLevel::active().name(), expected);
        assert_eq!(
            Kernel::new(DType::F32, ReduceOp::Sum).expect("defined").level().name(),
            expected
        );
        return;
    }
    let best = SimdLevel::best().name();
    let mut cases = vec![(Some("generic"), "generic"), (Some("nonsense"), best), (None, best)];
    cases.extend(levels().iter().map(|level| (Some(level.name()), level.name())));
    for (asked, expected) in cases {
        // The level is decided once in a process, so each case is a process: this test again.
        let mut child = std::process::Command::new(std::env::current_exe().expect("a path"));
        child.args(["--exact", "the_variable_lowers_the_level_and_nonsense_does_not"]);
        child.env(EXPECTED_LEVEL, expected).env_remove(SIMD_VARIABLE);
        if let Some(asked) = asked {
            child.env(SIMD_VARIABLE, asked);
        }
        let output = child.output().expect("runs");
        assert!(output.status.success(), "{asked:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
