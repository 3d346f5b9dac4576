//! Tables as text: what `cargo xtask tune` writes and a job reads.
//!
//! ```text
//! allhands-table 1
//! # collective  worlds    bytes   algorithm
//! all_reduce    powers:8  16KiB   recursive-doubling
//! all_reduce    any       any     circulant
//! ```
//!
//! One row a line, the first that fits decides. Worlds: `any`, `8` (up to eight ranks), `powers` (of two),
//! `powers:8` (up to eight). Bytes: `any`, or the most, as `65536`, `64KiB`, `4MiB` or `1GiB`. What follows `#`
//! is for people.

use std::fmt;
use std::str::FromStr;

use super::{Collective, Row, Table, Worlds};
use crate::algorithm::Algorithm;
use crate::locality::Locality;
use crate::plan::Rank;

/// The first line; the number changes when older readers would take a table for another.
const HEADING: &str = "allhands-table 1";

/// Most rows of a table that is read: far more than there are choices to make.
pub const ROWS_MAX: usize = 4096;

/// Why a text is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// It does not begin as tables do.
    #[error("line {line} is {found:?}; a table begins with \"allhands-table 1\"")]
    Heading {
        /// Number of the line, from 1.
        line: usize,
        /// What is there.
        found: String,
    },
    /// A line has not four words.
    #[error("line {line} has {words} words; a row has collective, worlds, bytes and algorithm")]
    Words {
        /// Number of the line, from 1.
        line: usize,
        /// Its words.
        words: usize,
    },
    /// A word makes no sense where it stands.
    #[error("line {line}: {word:?} is not {expected}")]
    Word {
        /// Number of the line, from 1.
        line: usize,
        /// The word.
        word: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// The row can never decide anything.
    #[error("line {line}: {algorithm} does not do {}", collective.name())]
    Impossible {
        /// Number of the line, from 1.
        line: usize,
        /// The collective.
        collective: Collective,
        /// The algorithm.
        algorithm: Algorithm,
    },
    /// There are more rows than [`ROWS_MAX`].
    #[error("line {line} is one row too many; a table has at most {ROWS_MAX}")]
    TooLong {
        /// Number of the line, from 1.
        line: usize,
    },
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADING}")?;
        for Row { collective, worlds, bytes, algorithm } in self.rows() {
            let worlds = match worlds {
                Worlds::UpTo(u32::MAX) => "any".to_owned(),
                Worlds::UpTo(most) => most.to_string(),
                Worlds::PowersUpTo(u32::MAX) => "powers".to_owned(),
                Worlds::PowersUpTo(most) => format!("powers:{most}"),
            };
            let bytes = size(*bytes);
            writeln!(f, "{:<14}  {worlds:<12}  {bytes:<10}  {algorithm}", collective.name())?;
        }
        Ok(())
    }
}

/// The units of sizes, largest first.
const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

fn size(bytes: u64) -> String {
    if bytes == u64::MAX {
        return "any".to_owned();
    }
    let whole = |shift: u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match UNITS.into_iter().find(|(_, shift)| whole(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

fn parse_size(word: &str) -> Option<u64> {
    if word == "any" {
        return Some(u64::MAX);
    }
    let unit = UNITS.into_iter().find_map(|(unit, shift)| Some((word.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((word, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn parse_worlds(word: &str) -> Option<Worlds> {
    match word.strip_prefix("powers") {
        Some("") => Some(Worlds::POWERS),
        Some(most) => most.strip_prefix(':')?.parse().ok().map(Worlds::PowersUpTo),
        None if word == "any" => Some(Worlds::ANY),
        None => word.parse().ok().map(Worlds::UpTo),
    }
}

/// Whether the algorithm does the collective among some number of ranks.
fn possible(collective: Collective, algorithm: Algorithm) -> bool {
    let shape = collective.shape(1 << 20, Rank(0));
    [2, 3, 4, 8].into_iter().any(|world| {
        let hosts = Locality::new((0..world).map(|rank| rank / 2));
        algorithm.supports(&shape, world) || algorithm.supports_on(&shape, &hosts)
    })
}

impl FromStr for Table {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        let lines = (1..).zip(text.lines());
        let mut lines = lines
            .map(|(line, text)| (line, text.split('#').next().unwrap_or_default().trim()))
            .filter(|(_, text)| !text.is_empty());
        let (line, heading) = lines.next().unwrap_or((1, ""));
        if heading.split_whitespace().ne(HEADING.split_whitespace()) {
            return Err(TableError::Heading { line, found: heading.to_owned() });
        }
        let mut rows = Vec::new();
        for (line, text) in lines {
            if rows.len() == ROWS_MAX {
                return Err(TableError::TooLong { line });
            }
            rows.push(row(line, text)?);
        }
        Ok(Self::new(rows))
    }
}

fn row(line: usize, text: &str) -> Result<Row, TableError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [collective, worlds, bytes, algorithm] = words[..] else {
        return Err(TableError::Words { line, words: words.len() });
    };
    let not = |word: &str, expected| TableError::Word { line, word: word.to_owned(), expected };
    let row = Row {
        collective: Collective::from_name(collective)
            .ok_or_else(|| not(collective, "a collective such as all_reduce"))?,
        worlds: parse_worlds(worlds)
            .ok_or_else(|| not(worlds, "any, powers, powers:8 or a number of ranks"))?,
        bytes: parse_size(bytes).ok_or_else(|| not(bytes, "any, or a size such as 64KiB"))?,
        algorithm: Algorithm::from_name(algorithm)
            .ok_or_else(|| not(algorithm, "an algorithm such as ring"))?,
    };
    if !possible(row.collective, row.algorithm) {
        let Row { collective, algorithm, .. } = row;
        return Err(TableError::Impossible { line, collective, algorithm });
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_survive_the_trip_through_text() {
        let odd = [Worlds::UpTo(0), Worlds::PowersUpTo(7), Worlds::ANY, Worlds::POWERS];
        let odd = odd.into_iter().flat_map(|worlds| {
            [0, 1, 1023, 1024, 3 << 20, (1 << 30) + 1, u64::MAX - 1, u64::MAX].map(|bytes| Row {
                collective: Collective::AllToAll,
                worlds,
                bytes,
                algorithm: Algorithm::Bruck,
            })
        });
        let tables = [
            Table::tcp_loopback(),
            Table::network(),
            Table::shared_memory(),
            Table::new([]),
            Table::new(odd),
        ];
        for table in tables {
            let text = table.to_string();
            assert_eq!(text.parse::<Table>().as_ref(), Ok(&table), "{text}");
        }
    }

    #[test]
    fn comments_and_spelling_are_free() {
        let text =
            "\n# mine\n allhands-table  1 # yes\n\nallreduce powers:8 64KiB two-shot # fast\n";
        let row = Row {
            collective: Collective::AllReduce,
            worlds: Worlds::PowersUpTo(8),
            bytes: 64 << 10,
            algorithm: Algorithm::TwoShot,
        };
        assert_eq!(text.parse::<Table>(), Ok(Table::new([row])));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |row: &str| format!("allhands-table 1\n\n{row}").parse::<Table>().unwrap_err();
        for (row, message) in [
            (
                "all_reduce any any",
                "line 3 has 3 words; a row has collective, worlds, bytes and algorithm",
            ),
            ("sum any any ring", "line 3: \"sum\" is not a collective such as all_reduce"),
            (
                "all_reduce -1 any ring",
                "line 3: \"-1\" is not any, powers, powers:8 or a number of ranks",
            ),
            (
                "all_reduce powers8 any ring",
                "line 3: \"powers8\" is not any, powers, powers:8 or a number of ranks",
            ),
            (
                "all_reduce any 99999999999GiB ring",
                "line 3: \"99999999999GiB\" is not any, or a size such as 64KiB",
            ),
            ("all_reduce any 4KB ring", "line 3: \"4KB\" is not any, or a size such as 64KiB"),
            ("all_reduce any any rings", "line 3: \"rings\" is not an algorithm such as ring"),
            ("barrier any any ring", "line 3: ring does not do barrier"),
            ("broadcast any any hierarchical", "line 3: hierarchical does not do broadcast"),
        ] {
            assert_eq!(error(row).to_string(), message);
        }
        for text in ["", "all_reduce any any ring", "allhands-table 2\n"] {
            assert!(matches!(text.parse::<Table>(), Err(TableError::Heading { .. })), "{text:?}");
        }
        let long = format!("{HEADING}\n{}", "barrier any any k-ary\n".repeat(ROWS_MAX + 1));
        let line = ROWS_MAX + 2;
        assert_eq!(long.parse::<Table>(), Err(TableError::TooLong { line }));
    }
}
