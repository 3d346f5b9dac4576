//! Rules about the text of Rust files.

use std::path::Path;

/// Longer files need a reason.
pub(crate) const LINES_MAX: usize = 800;

/// Files that are longer, and why.
pub(crate) const LONG: &[(&str, &str)] = &[];

/// How far above an `unsafe` block or impl its argument may stand, in lines.
const SAFETY_DISTANCE: usize = 6;

/// Paths that a pure crate does not name. A trailing colon pair stands for everything below.
const IMPURE: &[&str] = &[
    "std::net",
    "std::thread",
    "std::fs",
    "std::process",
    "std::env",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::time::SystemTime",
    "mio",
    "socket2",
    "rustix",
    "libc",
];

/// Calls that a pure crate does not make, under whatever path.
const IMPURE_CALLS: &[&str] =
    &["Instant::now", "SystemTime::now", "thread::spawn", "thread::current", "env::var"];

/// Complaints about input, output, clocks and threads in a file of a pure crate. Its unit tests may use them: a file
/// of that name, or one whose tests stand in no module of their own.
pub(crate) fn impure(path: &Path, text: &str) -> Vec<String> {
    if path.file_stem().is_some_and(|stem| stem == "tests") || text.contains("\n#[test]\n") {
        return Vec::new();
    }
    let code = code(text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    for used in imports(code) {
        let below = |impure: &&&str| used == **impure || used.starts_with(&format!("{impure}::"));
        if let Some(impure) = IMPURE.iter().find(below) {
            found.push(format!("{}: a pure crate imports {impure}", path.display()));
        }
    }
    let inline = |impure: &&&str| impure.contains("::") && has_word(code, impure);
    found.extend(
        IMPURE
            .iter()
            .chain(IMPURE_CALLS)
            .filter(inline)
            .map(|impure| format!("{}: a pure crate names {impure}", path.display())),
    );
    found.sort();
    found.dedup();
    found
}

/// Complaints about `unsafe` in a crate that may not hold any.
pub(crate) fn uses_unsafe(path: &Path, text: &str) -> Vec<String> {
    let code = code(text);
    let lines = code.lines().enumerate().filter(|(_, line)| has_word(line, "unsafe"));
    lines
        .map(|(at, _)| format!("{}:{}: unsafe outside the islands", path.display(), at + 1))
        .collect()
}

/// Complaints about `unsafe` without an argument near it: blocks and impls need a `SAFETY` comment, functions a
/// `# Safety` section or such a comment.
pub(crate) fn unargued(path: &Path, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let code = code(text);
    let mut complaints = Vec::new();
    for (at, line) in code.lines().enumerate().filter(|(_, line)| has_word(line, "unsafe")) {
        let after =
            line[line.find("unsafe").expect("the line holds it") + "unsafe".len()..].trim_start();
        let argued =
            if after.starts_with("fn") || after.starts_with("extern") || after.starts_with("trait")
            {
                documented(&lines, at)
            } else {
                lines[at.saturating_sub(SAFETY_DISTANCE)..=at]
                    .iter()
                    .any(|line| line.contains("SAFETY"))
            };
        // A type of a function pointer and an attribute make no claim of their own.
        let claims = !line.contains("unsafe fn(") && !line.trim_start().starts_with("#");
        if claims && !argued {
            complaints.push(format!("{}:{}: unsafe without an argument", path.display(), at + 1));
        }
    }
    complaints
}

/// Whether the comments and attributes directly above line `at` speak of safety.
fn documented(lines: &[&str], at: usize) -> bool {
    let above = lines[..at].iter().rev().map(|line| line.trim_start());
    above
        .take_while(|line| ["//", "#", ")", "$(#"].iter().any(|start| line.starts_with(start)))
        .any(|line| line.contains("# Safety") || line.contains("SAFETY"))
}

/// Complaints about files that are too long without a reason.
pub(crate) fn too_long(path: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let reason = LONG.iter().any(|(listed, _)| path == Path::new(listed));
    let long = lines > LINES_MAX && !reason;
    long.then(|| {
        format!("{}: {lines} lines, more than {LINES_MAX}, and no reason is listed", path.display())
    })
    .into_iter()
    .collect()
}

/// Complaints about work left open, and about tests that are switched off.
pub(crate) fn unfinished(path: &Path, text: &str) -> Vec<String> {
    // Written so that this file does not complain about itself.
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("#[ig", "nore")];
    let mut complaints = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for word in words.iter().filter(|word| line.contains(**word)) {
            complaints.push(format!("{}:{}: {word}", path.display(), at + 1));
        }
    }
    complaints
}

/// The text with comments and string literals blanked out, line by line, so that words in them do not count.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut depth = 0;
                let mut last = '/';
                loop {
                    match chars.next() {
                        Some('*') if last == '/' => (depth, last) = (depth + 1, ' '),
                        Some('/') if last == '*' => (depth, last) = (depth - 1, ' '),
                        Some(c) => last = c,
                        None => break,
                    }
                    if last == '\n' {
                        code.push('\n');
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
                && starts_raw(&chars) =>
            {
                let hashes = std::iter::from_fn(|| chars.next_if_eq(&'#')).count();
                chars.next();
                code.push_str("\"\"");
                let end = format!("\"{}", "#".repeat(hashes));
                let mut tail = String::new();
                for c in chars.by_ref() {
                    tail.push(c);
                    if c == '\n' {
                        code.push('\n');
                    }
                    if tail.ends_with(&end) {
                        break;
                    }
                }
            }
            '"' => {
                code.push_str("\"\"");
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => code.extend(chars.next().filter(|c| *c == '\n')),
                        '\n' => code.push('\n'),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '\'' => {
                // A quote as a character must not open a string; a lifetime has no closing quote.
                code.push('\'');
                let mut ahead = chars.clone();
                match (ahead.next(), ahead.next()) {
                    (Some('\\'), Some(_)) => {
                        chars.next();
                        chars.next();
                        while chars.next().is_some_and(|c| c != '\'') {}
                    }
                    (Some(_), Some('\'')) => {
                        chars.next();
                        chars.next();
                    }
                    _ => {}
                }
            }
            c => code.push(c),
        }
    }
    code
}

/// Whether what follows an `r` makes it the start of a raw string.
fn starts_raw(rest: &std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let mut rest = rest.clone();
    while rest.next_if_eq(&'#').is_some() {}
    rest.next() == Some('"')
}

/// Whether `word` stands in `text` with no letter, digit, underscore or further path before or after it.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// Every path that the `use` declarations in `code` name, with braces expanded.
fn imports(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        if let Some(tree) = code[at + 4..].split(';').next() {
            expand("", tree, &mut paths);
        }
    }
    paths
}

/// Adds the paths of one `use` tree below `prefix`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        let path = path.trim_end_matches("::*").trim_end_matches("::self");
        let joined = if path == "self" {
            prefix.trim_end_matches("::").into()
        } else {
            format!("{prefix}{path}")
        };
        paths.push(joined.trim_start_matches("::").to_string());
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inner = tree[open + 1..].trim_end().trim_end_matches('}');
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&prefix, &inner[start..], paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("crates/made-up/src/lib.rs")
    }

    #[test]
    fn impure_imports_are_found_however_they_are_written() {
        for bad in [
            "use std::net::TcpStream;",
            "use std::{fmt, net::{IpAddr, SocketAddr}};",
            "use std::{\n    collections::BTreeMap,\n    thread,\n};",
            "use ::std::fs;",
            "use std::fs::{self, File};",
            "pub use std::process as work;",
            "fn f() { let now = std::time::Instant::now(); }",
            "use std::time::Instant;\nfn f() -> Instant { Instant::now() }",
            "use std::time::{Duration, SystemTime};",
            "fn f() { std::thread::yield_now(); }",
            "fn f() { ::std::env::args(); }",
            "use mio::Poll;",
            "use mio::{Events, Poll};",
            "use socket2;",
            "fn f() { let home = std::env::var(\"HOME\"); }",
        ] {
            assert!(!impure(path(), bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn pure_code_passes() {
        for good in [
            "use std::time::{Duration, Instant};\nfn f(now: Instant) {}",
            "// std::thread is not used here\n/* nor is std::net, /* at all */ Instant::now */\nuse std::fmt;",
            "const HELP: &str = \"std::net and Instant::now\";",
            "const HELP: &str = r#\"std::net \"quoted\" Instant::now\"#;",
            "use crate::mio_like::Thing;",
            "use crate::{network, threads};",
            "use std::io::IoSlice;",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n",
            "const Q: char = '\"'; // std::fs\nconst R: char = '\\''; // std::net",
        ] {
            assert_eq!(impure(path(), good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(impure(Path::new("src/tests.rs"), "use std::thread;"), Vec::<String>::new());
    }

    #[test]
    fn unsafe_outside_the_islands_is_found() {
        for bad in [
            "unsafe { f() }",
            "unsafe impl Send for T {}",
            "let x = 1; unsafe {}",
            "pub unsafe fn f() {}",
        ] {
            assert_eq!(uses_unsafe(path(), bad).len(), 1, "{bad}");
        }
        for good in [
            "#![forbid(unsafe_code)]",
            "// unsafe { }",
            "let unsafely = 1;",
            "let x = \"unsafe { }\";",
        ] {
            assert_eq!(uses_unsafe(path(), good), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn unsafe_without_an_argument_is_found() {
        for bad in [
            "fn f() {\n    unsafe { g() }\n}",
            "unsafe impl Send for T {}",
            "// SAFETY: too far away\n\n\n\n\n\n\n\nunsafe { g() }",
            "/// Does things.\npub unsafe fn f() {}",
            "/// # Safety\n/// Of another function.\nfn g() {}\nunsafe fn f() {}",
            "const TEXT: &str = \"\\\n\";\nunsafe { g() }",
        ] {
            assert_eq!(unargued(path(), bad).len(), 1, "{bad}");
        }
        for good in [
            "// SAFETY: the lock is held\nunsafe { g() }",
            "// SAFETY: T holds no pointer\nunsafe impl Send for T {}",
            "/// # Safety\n/// Any.\n$(#[target_feature(enable = $feature)])?\nunsafe fn f() {}",
            "/// # Safety\n/// `p` is valid.\n#[inline]\npub unsafe fn f(p: *const u8) {}",
            "type Kernel = unsafe fn(*mut u8);",
            "// unsafe { }",
        ] {
            assert_eq!(unargued(path(), good), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn long_and_unfinished_files_are_found() {
        assert_eq!(too_long(path(), &"x\n".repeat(LINES_MAX)), Vec::<String>::new());
        assert_eq!(too_long(path(), &"x\n".repeat(LINES_MAX + 1)).len(), 1);
        let open = format!("// {}: later\n#[{}]\n", ["TO", "DO"].concat(), ["ig", "nore"].concat());
        assert_eq!(unfinished(path(), &open).len(), 2);
        assert_eq!(unfinished(path(), "// done\n"), Vec::<String>::new());
    }

    #[test]
    fn use_trees_expand() {
        assert_eq!(
            imports("use a::{b::{self, c as d}, e::*, f};\npub(crate) use ::g::h;"),
            ["a::b", "a::b::c", "a::e", "a::f", "g::h"]
        );
    }
}
