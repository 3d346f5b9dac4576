//! Every rank owns a range of positions: it gets all rows there, adds them, and gives everybody the sums.

use allhands_plan::{Counts, Shape};
use allhands_tensor::{DType, Merge, RowAdder, RowOrder, SparseRows, SparseTensor, Tensor};

use super::agree::Card;
use super::{Call, Step, choose, keys};
use crate::error::Error;

/// Rows of a range, of each rank: keys, and where they lie.
struct Received {
    keys: Vec<Vec<u64>>,
    bytes: Tensor,
    /// Where the values of each rank begin.
    begins: Vec<usize>,
}

impl Call<'_> {
    pub(super) fn owners(
        &mut self,
        cards: &[Card],
        tensor: &SparseTensor,
        order: &RowOrder,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let ranges = choose::ranges(cards);
        let received = self.distribute(cards, &ranges, tensor, order)?;
        let merge = Merge::of(&received.keys);
        let (row, size, me) = (self.layout.row_bytes(), keys::size(self.layout), self.rank());
        let counts = self.all_gather_number(merge.keys().len() as u64)?;
        let mut total = 0_usize;
        for (rank, &count) in counts.iter().enumerate() {
            if count > ranges[rank + 1] - ranges[rank] {
                return Err(self.garbled(rank, "more sums than it owns positions"));
            }
            total += count as usize;
        }
        let counts: Vec<usize> = counts.iter().map(|&count| count as usize).collect();
        let mut sum = self.sparse(SparseRows::new(self.layout.clone(), total, spare))?;
        let before: usize = counts[..me].iter().sum();
        // Exact blocks, so that the sums arrive where they belong.
        let exact = |bytes: usize| Shape::AllGather {
            counts: Counts::PerRank(counts.iter().map(|count| (count * bytes) as u64).collect()),
            own: allhands_plan::Own::InPlace,
        };
        let mut all = self.memory(keys::bytes(total * size))?;
        keys::write(merge.keys().iter().copied(), size, &mut keys::of(&mut all)[before * size..]);
        self.exchange(Step::Sums, exact(size), [], [keys::of(&mut all)])?;
        let all = keys::read(keys::of(&mut all), size);
        let mut from = 0;
        for (rank, &count) in counts.iter().enumerate() {
            if !keys::fit(&all[from..from + count], ranges[rank]..ranges[rank + 1]) {
                return Err(self.garbled(rank, "keys of sums that it does not own"));
            }
            from += count;
        }
        self.sparse(sum.set_keys(all))?;
        if row > 0 {
            let bytes = received.bytes.as_bytes().unwrap_or_default();
            let rows: Vec<&[u8]> = received
                .keys
                .iter()
                .zip(&received.begins)
                .map(|(keys, &begin)| &bytes[begin..][..keys.len() * row])
                .collect();
            let mut adder = RowAdder::new(self.layout.dtype(), row, cards.len());
            adder.add(&merge, 0..merge.len(), &rows, &mut sum.values_mut()[before * row..]);
            self.exchange(Step::Sums, exact(row), [], [sum.values_mut()])?;
        }
        Ok(sum.finish())
    }

    /// Brings rows to those who own their positions.
    fn distribute(
        &mut self,
        cards: &[Card],
        ranges: &[u64],
        tensor: &SparseTensor,
        order: &RowOrder,
    ) -> Result<Received, Error> {
        let (row, size, me) = (self.layout.row_bytes(), keys::size(self.layout), self.rank());
        let mine = order.keys();
        let cuts: Vec<usize> =
            ranges.iter().map(|&begin| mine.partition_point(|&key| key < begin)).collect();
        let sent: Vec<usize> = cuts.windows(2).map(|ends| ends[1] - ends[0]).collect();
        let counts = self.all_to_all_numbers(&sent)?;
        for (rank, (&count, card)) in counts.iter().zip(cards).enumerate() {
            if count > card.rows {
                return Err(self.garbled(rank, "more rows than it has"));
            }
        }
        let counts: Vec<usize> = counts.iter().map(|&count| count as usize).collect();
        // For each rank its keys, then its rows.
        let each = size + row;
        let mut outgoing = self.memory(keys::bytes(mine.len() * each))?;
        let out = keys::of(&mut outgoing);
        for ends in cuts.windows(2) {
            let rows = ends[0]..ends[1];
            let block = &mut out[rows.start * each..rows.end * each];
            let (of_keys, of_rows) = block.split_at_mut(rows.len() * size);
            keys::write(mine[rows.clone()].iter().copied(), size, of_keys);
            order.pack(tensor, rows, of_rows);
        }
        let total: usize = counts.iter().sum();
        let mut bytes = self.memory(keys::bytes(total * each))?;
        let blocks = |rows: &[usize]| {
            Counts::PerRank(rows.iter().map(|rows| (rows * each) as u64).collect())
        };
        let shape = Shape::AllToAll { send: blocks(&sent), recv: blocks(&counts) };
        self.exchange(Step::Keys, shape, [&*out], [keys::of(&mut bytes)])?;
        let mut received = Received { keys: Vec::new(), bytes, begins: Vec::new() };
        let mut from = 0;
        for (rank, &count) in counts.iter().enumerate() {
            let bytes = received.bytes.as_bytes().unwrap_or_default();
            let source = keys::read(&bytes[from..][..count * size], size);
            if !keys::fit(&source, ranges[me]..ranges[me + 1]) {
                return Err(self.garbled(rank, "keys that this rank does not own"));
            }
            received.keys.push(source);
            received.begins.push(from + count * size);
            from += count * each;
        }
        Ok(received)
    }

    /// One number for each rank, from each rank.
    fn all_to_all_numbers(&mut self, numbers: &[usize]) -> Result<Vec<u64>, Error> {
        let numbers: Vec<u64> = numbers.iter().map(|&number| number as u64).collect();
        let input = Tensor::from_vec(numbers);
        let mut output = self.memory(Tensor::try_zeros(DType::U64, &[self.ranks()]))?;
        let one = Counts::Equal(1);
        let shape = Shape::AllToAll { send: one.clone(), recv: one };
        let spec = self.spec(Step::Counts, shape, DType::U64, None);
        self.step(&spec, [self.memory(input.as_bytes())?], [keys::of(&mut output)])?;
        self.memory(output.to_vec())
    }
}
