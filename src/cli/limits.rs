//! How many files the process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::exit::{Exit, Failure};

/// More are never needed, and some systems take long to end a process that may have billions.
const ENOUGH: u64 = 1 << 20;
/// With fewer, parts of the program cannot begin.
const LEAST: u64 = 48;

/// Raises the soft limit to the hard one, as far as that is of use: the soft one is low for the sake of programs
/// that use `select`. Programs that this one starts inherit it, so it is for commands that start none.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if current.is_some_and(|current| current < wanted) {
        // A system that forbids it leaves the limit as it is, which may be enough.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Whether the program can begin.
///
/// # Errors
///
/// A [`Failure`] if it cannot.
pub(crate) fn are_enough() -> Result<(), Failure> {
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < LEAST => Err(too_few(files)),
        _ => Ok(()),
    }
}

fn too_few(files: u64) -> Failure {
    Failure::new(Exit::Local, format!("the process may open only {files} files"))
        .try_this(format!("allow it at least {LEAST}: `ulimit -n`, or `LimitNOFILE=` of systemd"))
}
