//! Layers and the layers that they may use, and the modules that may name a client library.

use crate::sources::{Sources, is_test};

/// Layers from the bottom up. A module may use its own layer and those below it.
const LAYERS: &[&str] =
    &["engine", "store", "node", "telemetry", "host", "k8s", "app", "testing", "operator", "cli"];

/// Modules between the engine and all other layers: they may use the engine's types, and the engine does not
/// use them.
const COMMON: &[&str] = &["causes", "clock", "hash", "metrics", "signals", "tasks", "tls"];

/// Crates, each with the modules that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("etcd_client", &["store::etcd"]),
    ("kube", &["k8s", "testing"]),
    ("k8s_openapi", &["k8s", "testing"]),
    ("axum", &["telemetry"]),
    ("clap", &["app", "cli"]),
];

/// Paths that the engine must not name: its callers pass in the time and random numbers, and carry out its
/// effects.
const IMPURE: &[&str] =
    &["tokio", "futures", "async_trait", "rand", "rustix", "std::net", "std::fs", "std::thread"];

/// Uses of a layer above the user's own, as `file:line: a uses b`.
pub(crate) fn that_point_up(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in &sources.files {
        let Some(own) = module(path) else { continue };
        let top = own.first().map_or("", String::as_str);
        for (line, used) in uses(text, &own) {
            let forbidden = match (rank(top), rank(&used)) {
                (Some(own), Some(used)) => used > own,
                (None, Some(used)) => COMMON.contains(&top) && used > 0,
                // The engine's tests may use these modules, the engine itself may not.
                (Some(own), None) => own == 0 && COMMON.contains(&used.as_str()) && !is_test(path),
                (None, None) => false,
            };
            if forbidden {
                found.push(format!("{path}:{line}: {top} uses {used}"));
            }
        }
    }
    found
}

/// Modules that name a crate which only another module may name.
pub(crate) fn foreign_names(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in &sources.files {
        let Some(own) = module(path) else { continue };
        // Tests may run a server of their own.
        if is_test(path) {
            continue;
        }
        let own = own.join("::");
        for (line, code) in code_lines(text) {
            for (name, homes) in HOMES {
                let at_home =
                    homes.iter().any(|home| own == *home || own.starts_with(&format!("{home}::")));
                if !at_home && names_crate(&code, name) {
                    found.push(format!("{path}:{line}: {name} belongs to {}", homes.join(" or ")));
                }
            }
        }
    }
    found
}

/// Lines of the engine that name a clock, I/O, randomness or async.
pub(crate) fn impure_engine(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in &sources.files {
        let Some(own) = module(path) else { continue };
        if own.first().is_none_or(|top| top != "engine") || is_test(path) {
            continue;
        }
        for (line, code) in code_lines(text) {
            let named = IMPURE.iter().find(|it| names_crate(&code, it)).copied();
            let read = ["::now(", "async fn", "async move", ".await", "println!"]
                .into_iter()
                .find(|it| is_said(&code, it));
            if let Some(what) = named.or(read) {
                found.push(format!("{path}:{line}: {what}"));
            }
        }
    }
    found
}

/// Whether code contains this word, and not only as the beginning of a longer name (`.await` in `.awaited`).
fn is_said(code: &str, what: &str) -> bool {
    code.match_indices(what).any(|(at, _)| {
        let after = code[at + what.len()..].chars().next();
        !what.ends_with(char::is_alphanumeric)
            || after.is_none_or(|it| !it.is_alphanumeric() && it != '_')
    })
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|it| *it == module)
}

/// Module of a file: `src/store/etcd/channel.rs` is `store::etcd::channel`. Of the roots, `lib.rs` has no
/// module, `main.rs` is `main`.
fn module(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    if path == "lib" {
        return None;
    }
    let mut parts: Vec<String> = path.split('/').map(String::from).collect();
    if parts.last().is_some_and(|it| it == "mod") {
        parts.pop();
    }
    Some(parts)
}

/// The top-level modules of this crate that a file uses, with the line: `crate::x`, `crate::{x, y}`,
/// `super::…` as far as the root, and `bellwether::x` in the binary.
fn uses(text: &str, own: &[String]) -> Vec<(usize, String)> {
    let code: Vec<(usize, String)> = code_lines(text).collect();
    let mut whole = String::new();
    let mut line_at = Vec::new();
    for (number, line) in &code {
        line_at.push((whole.len(), *number));
        whole.push_str(line);
        whole.push('\n');
    }
    let to_root = "super::".repeat(own.len());
    let mut found = Vec::new();
    for root in ["crate::", "bellwether::", to_root.as_str()] {
        for (at, _) in whole.match_indices(root) {
            // In `x_crate::`, and in `super::super::` of another depth, the match is not the beginning of the
            // path.
            if whole[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_' || it == ':') {
                continue;
            }
            let line = line_at.iter().rev().find(|(start, _)| *start <= at).map_or(0, |it| it.1);
            for name in heads(&whole[at + root.len()..]) {
                found.push((line, name));
            }
        }
    }
    found
}

/// First names after a path's root: `a::b` gives a, `{a::{x, y}, b}` gives a and b.
fn heads(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    let ident = |text: &str| -> String {
        text.trim_start().chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![ident(rest)] };
    let mut found = vec![ident(group)];
    let mut depth = 0_usize;
    for (at, it) in group.char_indices() {
        match it {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(ident(&group[at + 1..])),
            _ => {}
        }
    }
    found
}

/// Whether a line of code names a crate or path as the beginning of a path.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let begins =
            before.is_none_or(|it| !it.is_alphanumeric() && it != '_' && it != ':' && it != '.');
        begins
            && (after.starts_with("::") || (code.contains("use ") && after.starts_with([';', ' '])))
    })
}

/// Lines of a file, numbered from 1, without comments and without text in quotes.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut in_block = false;
    let mut in_quotes = false;
    text.lines().enumerate().map(move |(number, line)| {
        let mut code = String::new();
        let mut rest = line.chars().peekable();
        while let Some(it) = rest.next() {
            match (in_block, in_quotes, it, rest.peek()) {
                (true, _, '*', Some('/')) => {
                    rest.next();
                    in_block = false;
                }
                (true, ..) => {}
                (_, true, '\\', Some(_)) => {
                    rest.next();
                }
                (_, true, '"', _) => in_quotes = false,
                (_, true, ..) => {}
                (_, _, '/', Some('/')) => break,
                (_, _, '/', Some('*')) => {
                    rest.next();
                    in_block = true;
                }
                // A quote as a character literal is not the beginning of a string.
                (_, _, '\'', Some('"')) => {
                    rest.next();
                    rest.next();
                }
                (_, _, '"', _) => in_quotes = true,
                _ => code.push(it),
            }
        }
        (number + 1, code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_points_up_is_found_in_every_way_of_writing_it() {
        let sources = Sources::planted(&[
            ("src/engine/machine.rs", "use crate::store::Store;"),
            ("src/engine/types.rs", "fn now() { crate::clock::boot_now(); }"),
            ("src/store/keys.rs", "use crate::{engine::{NodeId, Term}, node::Role};"),
            ("src/store/etcd/lease.rs", "fn f() -> super::super::super::telemetry::Server {}"),
            ("src/node/mod.rs", "use crate::{\n    engine::Role,\n    operator::Uptime,\n};"),
            ("src/clock.rs", "use crate::node::Node;"),
            ("src/telemetry/server.rs", "use crate::k8s::Identity;"),
        ]);
        assert_eq!(
            that_point_up(&sources),
            [
                "src/engine/machine.rs:1: engine uses store",
                "src/engine/types.rs:1: engine uses clock",
                "src/store/keys.rs:1: store uses node",
                "src/store/etcd/lease.rs:1: store uses telemetry",
                "src/node/mod.rs:1: node uses operator",
                "src/clock.rs:1: clock uses node",
                "src/telemetry/server.rs:1: telemetry uses k8s",
            ]
        );
    }

    #[test]
    fn arrows_that_point_down_and_words_in_comments_are_fine() {
        let sources = Sources::planted(&[
            ("src/store/mod.rs", "use crate::engine::types::LeaseId;\n//! see crate::node"),
            ("src/store/etcd/mod.rs", "use super::{super::engine::LeaseId, Store};"),
            ("src/node/driver.rs", "use super::super::store::Store; // crate::operator\n"),
            ("src/engine/mod.rs", "let a = \"crate::store\"; /* crate::node */ let q = '\"';"),
            ("src/cli/demo.rs", "use bellwether::{node, operator, telemetry};"),
            ("src/lib.rs", "pub use crate::operator::Uptime;"),
        ]);
        assert_eq!(that_point_up(&sources), Vec::<String>::new());
    }

    #[test]
    fn a_client_library_outside_its_home_is_found() {
        let sources = Sources::planted(&[
            ("src/store/etcd/mod.rs", "use etcd_client::Client;"),
            ("src/store/memory.rs", "use etcd_client::{Client};\n// etcd_client::Client"),
            ("src/node/mod.rs", "fn f() { kube::Client::new() }"),
            ("src/k8s/mod.rs", "use kube::Client;"),
            ("src/cli/mod.rs", "use clap::Parser;"),
        ]);
        assert_eq!(
            foreign_names(&sources),
            [
                "src/store/memory.rs:1: etcd_client belongs to store::etcd",
                "src/node/mod.rs:1: kube belongs to k8s or testing",
            ]
        );
    }

    #[test]
    fn a_clock_or_a_runtime_in_the_engine_is_found() {
        let sources = Sources::planted(&[
            ("src/engine/a.rs", "use std::time::Instant;\nfn f() { Instant::now(); }"),
            ("src/engine/b.rs", "use tokio::sync::watch;"),
            ("src/engine/c.rs", "async fn f() {}"),
            ("src/engine/d.rs", "let x = self.awaited; y.await_result();"),
            ("src/node/a.rs", "use tokio::sync::watch; async fn f() {}"),
        ]);
        assert_eq!(
            impure_engine(&sources),
            [
                "src/engine/a.rs:2: ::now(",
                "src/engine/b.rs:1: tokio",
                "src/engine/c.rs:1: async fn"
            ]
        );
    }
}
