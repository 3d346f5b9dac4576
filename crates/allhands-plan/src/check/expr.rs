//! Trees of combined contributions, each stored once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::plan::Rank;

/// Number of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Expr(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    /// A rank's contribution.
    Leaf(u32),
    /// Two operands; the lower number first, as order does not matter.
    Pair(Expr, Expr),
    /// Rounding to a half dtype at the end of a reduction step.
    Round(Expr),
}

/// Trees are looked up for every run of every reduction, and nobody chooses them to collide.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
}

/// All trees of a run.
pub(super) struct Exprs {
    nodes: Vec<Node>,
    numbers: HashMap<Node, Expr, BuildHasherDefault<Mix>>,
    /// Whose contributions a tree holds: `words` words for each.
    members: Vec<u64>,
    words: usize,
    world: u32,
}

impl Exprs {
    pub(super) fn new(world: u32) -> Self {
        let words = world.div_ceil(64) as usize;
        let mut exprs = Self {
            nodes: Vec::new(),
            numbers: HashMap::default(),
            members: Vec::new(),
            words,
            world,
        };
        for rank in 0..world {
            let mut members = vec![0; words];
            members[rank as usize / 64] = 1 << (rank % 64);
            exprs.insert(Node::Leaf(rank), &members);
        }
        exprs
    }

    fn insert(&mut self, node: Node, members: &[u64]) -> Expr {
        let expr = Expr(self.nodes.len() as u32);
        self.nodes.push(node);
        self.numbers.insert(node, expr);
        self.members.extend_from_slice(members);
        expr
    }

    pub(super) fn leaf(rank: Rank) -> Expr {
        Expr(rank.0)
    }

    fn members(&self, expr: Expr) -> &[u64] {
        let start = expr.0 as usize * self.words;
        &self.members[start..start + self.words]
    }

    /// Combines two trees, or says whose contribution both hold.
    pub(super) fn pair(&mut self, a: Expr, b: Expr) -> Result<Expr, Rank> {
        let node = Node::Pair(a.min(b), a.max(b));
        if let Some(&known) = self.numbers.get(&node) {
            return Ok(known);
        }
        let mut union = Vec::with_capacity(self.words);
        for (word, (&x, &y)) in self.members(a).iter().zip(self.members(b)).enumerate() {
            if x & y != 0 {
                return Err(Rank(word as u32 * 64 + (x & y).trailing_zeros()));
            }
            union.push(x | y);
        }
        Ok(self.insert(node, &union))
    }

    pub(super) fn round(&mut self, a: Expr) -> Expr {
        let node = Node::Round(a);
        if let Some(&known) = self.numbers.get(&node) {
            return known;
        }
        let members = self.members(a).to_vec();
        self.insert(node, &members)
    }

    /// Combines operands as a balanced tree: neighbours are paired level by level, an odd last one is
    /// carried up. There is at least one.
    pub(super) fn tree(&mut self, operands: &mut Vec<Expr>) -> Result<Expr, Rank> {
        while operands.len() > 1 {
            let pairs = operands.len() / 2;
            for i in 0..pairs {
                operands[i] = self.pair(operands[2 * i], operands[2 * i + 1])?;
            }
            if operands.len() % 2 == 1 {
                operands[pairs] = operands[2 * pairs];
            }
            operands.truncate(operands.len().div_ceil(2));
        }
        Ok(operands[0])
    }

    /// The canonical tree over all ranks.
    pub(super) fn canonical(&mut self) -> Expr {
        let mut leaves = (0..self.world).map(Expr).collect();
        // Leaves are all different, so none is met twice.
        self.tree(&mut leaves).unwrap_or(Expr(0))
    }

    /// Some rank whose contribution is missing.
    pub(super) fn missing(&self, expr: Expr) -> Option<Rank> {
        let members = self.members(expr);
        (0..self.world).find(|r| members[*r as usize / 64] & (1 << (r % 64)) == 0).map(Rank)
    }

    /// The tree in writing; long ones are cut.
    pub(super) fn write(&self, expr: Expr) -> String {
        let mut text = String::new();
        self.append(expr, &mut text);
        text
    }

    fn append(&self, expr: Expr, text: &mut String) {
        const LONG: usize = 200;
        if text.len() > LONG {
            if !text.ends_with('…') {
                text.push('…');
            }
            return;
        }
        match self.nodes[expr.0 as usize] {
            Node::Leaf(rank) => text.push_str(&rank.to_string()),
            Node::Round(inner) => {
                text.push('[');
                self.append(inner, text);
                text.push(']');
            }
            Node::Pair(a, b) => {
                text.push('(');
                self.append(a, text);
                text.push('+');
                self.append(b, text);
                text.push(')');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_pair_with_neighbours_and_an_odd_last_one_is_carried_up() {
        let mut exprs = Exprs::new(5);
        let canonical = exprs.canonical();
        assert_eq!(exprs.write(canonical), "(4+((0+1)+(2+3)))");
        assert_eq!(exprs.missing(canonical), None);
        let one = exprs.pair(Exprs::leaf(Rank(1)), Exprs::leaf(Rank(0)));
        assert_eq!(one, exprs.pair(Exprs::leaf(Rank(0)), Exprs::leaf(Rank(1))));
        assert_eq!(exprs.pair(canonical, Exprs::leaf(Rank(3))), Err(Rank(3)));
    }
}
