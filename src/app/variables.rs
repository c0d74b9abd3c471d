//! Environment variables as scripts, charts and Compose files set them: an empty variable counts as unset, a
//! flag that is on may be written `1`, `yes` or `on`, and an error names the variable that it comes from.

use std::ffi::OsString;

use clap::{
    Arg, ArgAction, Command, Error,
    builder::{BoolishValueParser, Resettable},
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Returns the command line with these rules for environment variables.
pub(super) fn taken(command: Command) -> Command {
    command.mut_args(variable).mut_subcommands(taken)
}

fn variable(arg: Arg) -> Arg {
    let Some(name) = arg.get_env() else { return arg };
    let is_empty = std::env::var_os(name).is_some_and(|value| value.is_empty());
    let arg = if is_empty { arg.env(Resettable::Reset) } else { arg };
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        arg.value_parser(BoolishValueParser::new())
    } else {
        arg
    }
}

/// Returns the variables that may have caused an error: those of the flags that the error is about, unless
/// the flags are given on the command line.
pub(super) fn named(error: &Error, command: &Command, words: &[OsString]) -> Option<String> {
    let is_about_others =
        matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict);
    if !is_about_others
        && !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation)
    {
        return None;
    }
    let about = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.clone(),
        Some(ContextValue::Strings(flags)) => flags.join(" "),
        _ => String::new(),
    };
    let mut found = Vec::new();
    let mut command = Some(command);
    while let Some(level) = command {
        for arg in level.get_arguments() {
            let (Some(name), Some(long)) = (arg.get_env(), arg.get_long()) else { continue };
            let flag = format!("--{long}");
            let is_given =
                words.iter().any(|word| is_flag(&word.to_string_lossy(), &flag, arg.get_short()));
            let is_meant = about.split_whitespace().any(|word| word == flag);
            if std::env::var_os(name).is_some() && !is_given && (is_meant || is_about_others) {
                found.push(format!("{} ({flag})", name.to_string_lossy()));
            }
        }
        command = level.get_subcommands().find(|it| words.iter().any(|word| word == it.get_name()));
    }
    (!found.is_empty()).then(|| {
        format!("note: set by the environment: {}; unset what is not meant", found.join(", "))
    })
}

fn is_flag(word: &str, flag: &str, short: Option<char>) -> bool {
    let is_long =
        word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let is_short = |short| !word.starts_with("--") && word.starts_with(&format!("-{short}"));
    is_long || short.is_some_and(is_short)
}
