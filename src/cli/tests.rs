//! The command line is consistent, and it accepts every command line in the docs.

#[allow(unreachable_pub, reason = "shared with other tests")]
#[path = "../../tests/support/docs.rs"]
mod docs;

use clap::{CommandFactory as _, error::ErrorKind};

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_has_an_environment_variable_and_every_command_a_help_text() {
    let cli = Cli::command();
    let mut lacking = Vec::new();
    for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
        let name = command.get_name();
        if command.get_about().is_none() {
            lacking.push(format!("{name}: no help text"));
        }
        for arg in command.get_arguments().filter(|it| !it.is_positional()) {
            let id = arg.get_id().as_str();
            if ["help", "version"].contains(&id) {
                continue;
            }
            let variable = arg.get_env().map(|it| it.to_string_lossy().into_owned());
            if !variable.is_some_and(|it| it.starts_with("BELLWETHER_")) {
                lacking.push(format!("{name} --{id}: no environment variable"));
            }
            if arg.get_help().is_none() {
                lacking.push(format!("{name} --{id}: no help text"));
            }
        }
    }
    assert_eq!(lacking, Vec::<String>::new());
}

/// Placeholders for values in the docs, each with a possible value.
const PLACEHOLDERS: [(&str, &str); 2] = [("ID", "1"), ("COMMAND", "status")];

/// Command lines of this program in a Markdown text: in code spans, and in blocks of shell commands.
fn command_lines(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Parts with an odd number are inside fences.
    for (n, part) in markdown.split("```").enumerate() {
        if n % 2 == 0 {
            let spans = part.split('`').skip(1).step_by(2);
            found.extend(spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")));
        } else if let Some(shell) = part.strip_prefix("sh\n") {
            let whole = shell.replace("\\\n", " ");
            let lines = whole.lines().map(|line| line.split(" #").next().unwrap_or(line));
            found.extend(lines.flat_map(|line| line.split(['|', '&', ';'])).map(str::to_owned));
        }
    }
    // A program that runs another one names the other one after two dashes.
    let each = found.iter().flat_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (0..words.len())
            .filter(|at| *at == 0 || words[at - 1] == "--")
            .map(|at| words[at..].join(" "))
            .collect::<Vec<_>>()
    });
    each.filter(|line| line.split(' ').next() == Some("bellwether")).collect()
}

/// Returns why a command line of the docs is rejected.
fn refused(line: &str) -> Option<String> {
    let words = line.split(' ').map(|word| {
        PLACEHOLDERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| value)
    });
    let error = Cli::try_parse_from(words).err()?;
    let is_name = line.split(' ').count() <= 2;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        // The text only mentions the program or a command.
        ErrorKind::MissingRequiredArgument
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if is_name =>
        {
            None
        }
        _ => Some(format!("{line}: {error}")),
    }
}

#[test]
fn every_command_line_in_the_docs_is_understood() {
    let mut lines = 0;
    let mut wrong = Vec::new();
    for (file, text) in docs::texts() {
        let found = command_lines(&text);
        lines += found.len();
        let refused = found.iter().filter_map(|line| refused(line));
        wrong.extend(refused.map(|why| format!("{}: {why}", file.display())));
    }
    assert!(40 < lines, "the command lines were not found: {lines}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn command_lines_are_found_in_spans_and_blocks_and_wrong_ones_refused() {
    let markdown = "`bellwether\nundrain ID`, `drain`, bellwether nodes\n```sh\nexport A=b\nx -- bellwether \\\n  \
                    nodes & # bellwether\nbellwether crds | cat\n```\n```rust\nbellwether x\n```\n`bellwether drain`";
    assert_eq!(
        command_lines(markdown),
        ["bellwether undrain ID", "bellwether nodes", "bellwether crds", "bellwether drain"]
    );
    for fine in ["bellwether --help", "bellwether COMMAND --help", "bellwether drain"] {
        assert_eq!(refused(fine), None);
    }
    for wrong in ["bellwether drain --undo ID", "bellwether nods", "bellwether put KEY value -x"] {
        assert!(refused(wrong).is_some(), "{wrong}");
    }
}

/// Rights of rules: group, resource, verb, and resource name if there is one.
fn rights(rules: &[crate::k8s::rbac::PolicyRule]) -> std::collections::BTreeSet<[String; 4]> {
    let mut found = std::collections::BTreeSet::new();
    for rule in rules {
        let names = rule.resource_names.clone().unwrap_or_else(|| vec![String::new()]);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for (verb, name) in
                    rule.verbs.iter().flat_map(|verb| names.iter().map(move |name| (verb, name)))
                {
                    found.insert([group, resource, verb, name].map(Clone::clone));
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn the_chart_has_the_rights_that_are_computed_and_no_others() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/bellwether/files/rbac.yaml");
    let file = std::fs::read_to_string(file).unwrap();
    let written: crate::k8s::rbac::Rules = serde_saphyr::from_str(&file).unwrap();
    let computed = run::rules();
    for (list, written, computed) in [
        ("watched", &written.watched, &computed.watched),
        ("home", &written.home, &computed.home),
        ("kubernetesStore", &written.kubernetes_store, &computed.kubernetes_store),
        ("cluster", &written.cluster, &computed.cluster),
    ] {
        assert_eq!(rights(written), rights(computed), "{list}");
    }
    assert!(10 < rights(&computed.home).len() + rights(&computed.kubernetes_store).len());
}
