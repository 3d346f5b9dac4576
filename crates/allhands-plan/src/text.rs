//! Plans as text.

use std::fmt;

use crate::plan::{Buffer, Finish, Local, Op, Order, Part, Plan, Span, Step};

impl fmt::Display for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Input => "input",
            Self::Data => "data",
            Self::Scratch => "scratch",
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..{}]", self.buffer, self.offset, self.end())
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Canonical => "canonical",
            Self::Fixed => "fixed",
        })
    }
}

/// A plan as it runs: lanes, their steps, what they wait for. A message is written as its peer and its
/// number among those of the pair: `3#0` is the first one from or to rank 3.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, algorithm, world, rank, .. } = self;
        writeln!(f, "{} by {algorithm}: {rank} of {world}", shape.name())?;
        write!(f, "  input {}, data {}", self.input_len, self.data_len)?;
        write!(f, ", scratch {}", self.scratch_len)?;
        if self.reduces() {
            write!(f, "; order {}", self.exact_order)?;
            if self.exact_order != self.half_order {
                write!(f, ", {} for f16 and bf16", self.half_order)?;
            }
        }
        writeln!(f)?;
        for (number, lane) in self.lanes.iter().enumerate() {
            let steps = self.steps(lane);
            if steps.is_empty() {
                continue;
            }
            writeln!(f, "  lane {number}")?;
            for (number, step) in steps.iter().enumerate() {
                write!(f, "    {:>2}  ", number + 1)?;
                self.write_step(f, step)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn write_step(&self, f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
        write!(f, "{:<18} ", step.label)?;
        match step.op {
            Op::Send { parts } => self.write_messages(f, "->", self.parts(&parts))?,
            Op::Recv { parts } => self.write_messages(f, "<-", self.parts(&parts))?,
            Op::RecvReduce { parts, local, dst, finish } => {
                let messages =
                    self.parts(&parts).iter().map(|p| format!("{}#{}", p.peer.0, p.slot));
                write_reduction(f, messages, local, dst, finish)?;
            }
            Op::Copy { src, dst } => write!(f, "{dst} = {src}")?,
            Op::Reduce { sources, local, dst, finish } => {
                let operands = self.sources(&sources).iter().map(Span::to_string);
                write_reduction(f, operands, local, dst, finish)?;
            }
        }
        for (number, wait) in step.waits.iter().flatten().enumerate() {
            f.write_str(if number == 0 { "  after " } else { " and " })?;
            write!(f, "lane {} step {}", wait.lane, wait.steps)?;
        }
        Ok(())
    }

    fn write_messages(
        &self,
        f: &mut fmt::Formatter<'_>,
        arrow: &str,
        parts: &[Part],
    ) -> fmt::Result {
        for (number, Part { peer, slot, span }) in parts.iter().enumerate() {
            if number > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{span} {arrow} {}#{slot}", peer.0)?;
        }
        Ok(())
    }
}

fn write_reduction(
    f: &mut fmt::Formatter<'_>,
    operands: impl Iterator<Item = String>,
    local: Option<Local>,
    dst: Span,
    finish: Finish,
) -> fmt::Result {
    let mut operands: Vec<String> = operands.collect();
    if let Some(Local { span, at }) = local {
        let at = (at as usize).min(operands.len());
        operands.insert(at, span.to_string());
    }
    write!(f, "{dst} = {}", operands.join(" + "))?;
    if finish == Finish::Last {
        f.write_str(", the result")?;
    }
    Ok(())
}
