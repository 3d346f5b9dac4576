//! Keys as they travel: in 32 bits where all positions have such numbers.

use allhands_tensor::{DType, SparseLayout, Tensor, TensorError};

/// Positions up to which keys travel in 32 bits.
const NARROW: u64 = 1 << 32;

/// Bytes of a key of such a tensor.
pub(super) fn size(layout: &SparseLayout) -> usize {
    if layout.positions() <= NARROW { 4 } else { 8 }
}

/// Memory for `len` bytes.
pub(super) fn bytes(len: usize) -> Result<Tensor, TensorError> {
    Tensor::try_zeros(DType::U8, &[len])
}

/// The bytes of a tensor that was made here, contiguous.
pub(super) fn of(tensor: &mut Tensor) -> &mut [u8] {
    tensor.as_bytes_mut().unwrap_or_default()
}

/// Writes keys of `size` bytes each to the beginning of `bytes`.
pub(super) fn write(keys: impl IntoIterator<Item = u64>, size: usize, bytes: &mut [u8]) {
    if size == 4 {
        let targets = bytes.chunks_exact_mut(4);
        keys.into_iter()
            .zip(targets)
            .for_each(|(key, to)| to.copy_from_slice(&(key as u32).to_le_bytes()));
    } else {
        let targets = bytes.chunks_exact_mut(8);
        keys.into_iter().zip(targets).for_each(|(key, to)| to.copy_from_slice(&key.to_le_bytes()));
    }
}

/// The keys in these bytes.
pub(super) fn read(bytes: &[u8], size: usize) -> Vec<u64> {
    let wide = |chunk: &[u8]| {
        let mut whole = [0; 8];
        whole[..size].copy_from_slice(chunk);
        u64::from_le_bytes(whole)
    };
    match size {
        // Apart, because it is the rule and then is a plain loop.
        4 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&chunk| u64::from(u32::from_le_bytes(chunk)))
            .collect(),
        _ => bytes.chunks_exact(size).map(wide).collect(),
    }
}

/// Whether keys rise and lie within a range of positions.
pub(super) fn fit(keys: &[u64], range: std::ops::Range<u64>) -> bool {
    let inside = |key: Option<&u64>| key.is_none_or(|key| range.contains(key));
    keys.windows(2).all(|pair| pair[0] < pair[1]) && inside(keys.first()) && inside(keys.last())
}
