//! Lists of hosts in the grammar of Slurm: `login,node[01-03,7]-ib`.

/// Most hosts that a list may name: as many as there can be ranks.
const HOSTS_MAX: usize = 1 << 16;

/// Longest name of a host, in bytes: that of DNS.
const NAME_MAX: usize = 253;

/// What is wrong with a list.
pub(super) const EXPECTED: &str =
    "a list of up to 65536 hosts, such as node[01-03,7] or a1,b[2-3]-ib";

/// The hosts of `list`, in its order; `None` if it is not a list.
///
/// Numbers keep the width of the first of their range. With several brackets the last one counts fastest.
pub(super) fn expand(list: &str) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    let mut rest = list.trim();
    loop {
        let end = entry_end(rest)?;
        let (entry, more) = rest.split_at(end);
        append(entry.trim(), &mut hosts)?;
        match more.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some(hosts),
        }
    }
}

/// Where the first entry ends: at a comma outside of brackets.
fn entry_end(list: &str) -> Option<usize> {
    let mut inside = false;
    for (at, c) in list.char_indices() {
        match c {
            '[' if inside => return None,
            '[' => inside = true,
            ']' if !inside => return None,
            ']' => inside = false,
            ',' if !inside => return Some(at),
            _ => {}
        }
    }
    (!inside).then_some(list.len())
}

/// Adds the hosts of one entry.
fn append(entry: &str, hosts: &mut Vec<String>) -> Option<()> {
    let room = HOSTS_MAX - hosts.len();
    let mut names = vec![String::new()];
    let mut rest = entry;
    while !rest.is_empty() {
        let text = rest.find('[').unwrap_or(rest.len());
        let (literal, more) = rest.split_at(text);
        if literal.chars().any(|c| c.is_whitespace() || c == ']') {
            return None;
        }
        names.iter_mut().for_each(|name| name.push_str(literal));
        let Some(more) = more.strip_prefix('[') else { break };
        let (ranges, more) = more.split_once(']')?;
        let numbers = numbers(ranges, room / names.len())?;
        let with = |name: &String| numbers.iter().map(move |n| format!("{name}{n}")).collect();
        names = names.iter().flat_map(|name| -> Vec<String> { with(name) }).collect();
        rest = more;
    }
    let fits = |name: &String| (1..=NAME_MAX).contains(&name.len());
    if names.len() > room || !names.iter().all(fits) {
        return None;
    }
    hosts.append(&mut names);
    Some(())
}

/// The numbers of `01-03,7`, at most `room` of them.
fn numbers(ranges: &str, room: usize) -> Option<Vec<String>> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| digits)
        };
        let (first, last) = (number(low)?, number(high)?);
        let count = last.checked_sub(first)?;
        if count >= (room - numbers.len()) as u64 {
            return None;
        }
        let width = low.len();
        numbers.extend((first..=last).map(|number| format!("{number:0width$}")));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second column is what `scontrol show hostnames` prints.
    const LISTS: [(&str, &str); 11] = [
        ("node1", "node1"),
        ("gnode[10,20-22]", "gnode10 gnode20 gnode21 gnode22"),
        ("node[01-03,7]", "node01 node02 node03 node7"),
        ("login,node[8-11]", "login node8 node9 node10 node11"),
        ("a1,b[2-3]-ib,c", "a1 b2-ib b3-ib c"),
        ("r[1-2]n[08-10]", "r1n08 r1n09 r1n10 r2n08 r2n09 r2n10"),
        ("10-0-3-12", "10-0-3-12"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("[1-2]", "1 2"),
        ("x[5]y[007]z", "x5y007z"),
        ("node1, node2", "node1 node2"),
    ];

    #[test]
    fn lists_expand() {
        for (list, hosts) in LISTS {
            let hosts: Vec<_> = hosts.split(' ').map(str::to_owned).collect();
            assert_eq!(expand(list), Some(hosts), "{list}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for list in [
            "",
            ",",
            "a,",
            "a,,b",
            "n[",
            "n[1",
            "n]1",
            "n[1-",
            "n[-1]",
            "n[3-1]",
            "n[a]",
            "n[]",
            "n[1,]",
            "n[1[2]]",
            "n[1-2-3]",
            "a b",
            "n[+1]",
            "n[99999999999999999999]",
            "(null) x",
        ] {
            assert_eq!(expand(list), None, "{list}");
        }
    }

    #[test]
    fn no_list_takes_more_memory_than_its_limit_allows() {
        assert_eq!(expand("n[0-65535]").map(|hosts| hosts.len()), Some(HOSTS_MAX));
        for list in ["n[0-65536]", "n[0-18446744073709551615]", "a[0-999]b[0-999]", "a,n[0-65535]"]
        {
            assert_eq!(expand(list), None, "{list}");
        }
        // Every entry counts, the ones without brackets too.
        assert_eq!(expand(&vec!["a"; HOSTS_MAX + 1].join(",")), None);
    }
}
