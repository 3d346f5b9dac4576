//! Reduction kernels beside a memory copy.
//!
//! Throughput counts every byte that a kernel reads and writes: an in-place sum of two operands
//! counts three times its length, a copy twice. `ALLHANDS_SIMD` chooses the instructions.
//!
//! `cargo bench -p allhands-benches --bench kernels -- 256KiB/f16`
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use allhands_tensor::{DType, Kernel, ReduceOp, SimdLevel, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Two sizes: operands that stay in the second-level cache, and operands that do not fit any.
const SIZES: [(&str, usize); 2] = [("256KiB", 256 << 10), ("64MiB", 64 << 20)];

/// Small positive numbers: no overflow, no subnormals, which would be another measurement.
fn operand(dtype: DType, bytes: usize) -> Tensor {
    let mut tensor = Tensor::zeros(dtype, &[bytes / dtype.size()]);
    let kernel = Kernel::new(DType::U8, ReduceOp::BitOr).expect("defined");
    let one: Vec<u8> = match dtype {
        DType::F32 => 1.0f32.to_ne_bytes().to_vec(),
        DType::F64 => 1.0f64.to_ne_bytes().to_vec(),
        DType::F16 => 0x3c00u16.to_ne_bytes().to_vec(),
        DType::BF16 => 0x3f80u16.to_ne_bytes().to_vec(),
        _ => vec![1; dtype.size()],
    };
    let pattern = one.repeat(bytes / dtype.size());
    let target = tensor.as_bytes_mut().expect("fresh tensors are contiguous");
    kernel.reduce(target, Some(0), &[&pattern]);
    tensor
}

fn bytes(tensor: &Tensor) -> &[u8] {
    tensor.as_bytes().expect("fresh tensors are contiguous")
}

fn kernels(criterion: &mut Criterion) {
    for (size_name, size) in SIZES {
        let mut group = criterion.benchmark_group(size_name);
        group.warm_up_time(Duration::from_millis(200));
        group.measurement_time(Duration::from_millis(800));
        group.sample_size(20);

        let source = operand(DType::U8, size);
        let mut target = operand(DType::U8, size);
        let target_bytes = target.as_bytes_mut().expect("contiguous");
        group.throughput(Throughput::Bytes(2 * size as u64));
        group.bench_function("memcpy", |bencher| {
            bencher.iter(|| target_bytes.copy_from_slice(black_box(bytes(&source))));
        });

        // Max costs the same whatever the values do, and a running sum would end at infinity:
        // infinities are as fast as numbers, so the sums may run.
        let cells = [
            (DType::F32, ReduceOp::Sum),
            (DType::F64, ReduceOp::Sum),
            (DType::F16, ReduceOp::Sum),
            (DType::BF16, ReduceOp::Sum),
            (DType::I32, ReduceOp::Sum),
            (DType::U8, ReduceOp::Max),
            (DType::F32, ReduceOp::Max),
            (DType::BF16, ReduceOp::Max),
        ];
        for (dtype, op) in cells {
            for operands in [2usize, 4, 8] {
                // 64 MiB times eight is much memory; two cells tell enough.
                if size > 1 << 20 && operands > 2 && op != ReduceOp::Sum {
                    continue;
                }
                let sources: Vec<Tensor> = (1..operands).map(|_| operand(dtype, size)).collect();
                let sources: Vec<&[u8]> = sources.iter().map(bytes).collect();
                let mut target = operand(dtype, size);
                let target = target.as_bytes_mut().expect("contiguous");
                let kernel = Kernel::new(dtype, op).expect("defined");
                group.throughput(Throughput::Bytes((operands as u64 + 1) * size as u64));
                let name = format!("{dtype}-{}-{}", op.name(), SimdLevel::active());
                group.bench_with_input(BenchmarkId::new(name, operands), &operands, |b, _| {
                    b.iter(|| kernel.reduce(black_box(target), Some(0), black_box(&sources)));
                });
            }
        }
        group.finish();
    }

    let mut group = criterion.benchmark_group("4B");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(500));
    for operands in [2usize, 8, 9] {
        let kernel = Kernel::new(DType::F32, ReduceOp::Sum).expect("defined");
        let source = 1.0f32.to_ne_bytes();
        let sources = vec![source.as_slice(); operands - 1];
        let mut target = 0.0f32.to_ne_bytes();
        group.bench_with_input(BenchmarkId::new("f32-sum", operands), &operands, |b, _| {
            b.iter(|| kernel.reduce(black_box(&mut target), Some(0), black_box(&sources)));
        });
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
