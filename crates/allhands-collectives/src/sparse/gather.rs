//! Every rank gets all rows, and adds them while they are in cache.

use allhands_tensor::{Merge, RowAdder, RowOrder, SparseRows, SparseTensor, TensorError};

use super::agree::Card;
use super::{Call, STAGE_ALL, STAGE_BOARD, STAGE_LINKS, Step, keys, raised};
use crate::error::Error;

impl Call<'_> {
    pub(super) fn gather(
        &mut self,
        cards: &[Card],
        tensor: &SparseTensor,
        order: &RowOrder,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let merge = self.gather_keys(cards, order)?;
        let mut sum =
            self.sparse(SparseRows::new(self.layout.clone(), merge.keys().len(), spare))?;
        self.sparse(sum.set_keys(merge.keys().iter().copied()))?;
        let row = self.layout.row_bytes();
        if row == 0 {
            return Ok(sum.finish());
        }
        let me = self.rank();
        let most = self
            .rows_at_once(row)
            .min(cards.iter().map(|card| card.rows as usize).max().unwrap_or(0))
            .max(1);
        let stage_len = raised(most).checked_mul(row).and_then(|len| len.checked_mul(cards.len()));
        let too_large = || TensorError::TooLarge {
            dtype: self.layout.dtype(),
            shape: vec![cards.len(), most, row],
        };
        let lanes = &self.group.lanes;
        let stage = stage_len.ok_or_else(too_large).and_then(|len| lanes.stage(len));
        let mut whole_stage = self.memory(stage)?;
        let mut adder = RowAdder::new(self.layout.dtype(), row, cards.len());
        let mut counts = vec![0; cards.len()];
        let (mut at, mut own, mut written) = (0, 0, 0);
        while at < merge.len() {
            let end = merge.part(at, most, &mut counts);
            let blocks = self.blocks(&counts, row);
            let stage = &mut keys::of(&mut whole_stage)[..blocks.total()];
            order.pack(
                tensor,
                own..own + counts[me],
                &mut stage[blocks.begins[me]..][..counts[me] * row],
            );
            self.exchange(Step::Rows, blocks.all_gather(), [], [&mut *stage])?;
            let rows: Vec<&[u8]> =
                blocks.begins.windows(2).map(|ends| &stage[ends[0]..ends[1]]).collect();
            written += adder.add(&merge, at..end, &rows, &mut sum.values_mut()[written * row..]);
            own += counts[me];
            at = end;
        }
        self.group.lanes.keep(whole_stage);
        Ok(sum.finish())
    }

    /// The keys of all ranks.
    fn gather_keys(&mut self, cards: &[Card], order: &RowOrder) -> Result<Merge, Error> {
        let size = keys::size(self.layout);
        let rows: Vec<usize> = cards.iter().map(|card| card.rows as usize).collect();
        let blocks = self.blocks(&rows, size);
        let mut all = self.memory(keys::bytes(blocks.total()))?;
        let bytes = keys::of(&mut all);
        let me = self.rank();
        keys::write(order.keys().iter().copied(), size, &mut bytes[blocks.begins[me]..]);
        self.exchange(Step::Keys, blocks.all_gather(), [], [&mut *bytes])?;
        let mut sources = Vec::with_capacity(rows.len());
        for (rank, &rows) in rows.iter().enumerate() {
            let source = keys::read(&bytes[blocks.begins[rank]..][..rows * size], size);
            if !keys::fit(&source, 0..self.layout.positions()) {
                return Err(self.garbled(rank, "keys that do not rise"));
            }
            sources.push(source);
        }
        Ok(Merge::of(&sources))
    }

    /// Rows of a rank that are staged at a time.
    fn rows_at_once(&self, row: usize) -> usize {
        let stage = if self.on_board() { STAGE_BOARD } else { STAGE_LINKS };
        let rows = (stage.min(STAGE_ALL / self.ranks()) / row).max(1);
        // A count that is not raised, so that full stages have one plan.
        let grain = (rows.next_power_of_two() / 32).max(1);
        (rows / grain * grain).max(1)
    }
}
