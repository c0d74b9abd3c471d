//! Limit on the number of files that the process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::exit::{Exit, Failure};

/// More files are never needed, and some systems are slow to end a process that may open billions.
const ENOUGH: u64 = 1 << 20;
/// Minimum number of files; with fewer, parts of the program cannot start.
const LEAST: u64 = 48;

/// Raises the soft limit to the hard one, up to [`ENOUGH`]: the usual soft limit is low only for programs
/// that use `select`. Child processes inherit the limit, so only commands that start none call this.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if current.is_some_and(|current| current < wanted) {
        // If the system forbids this, the old limit stays, which may be enough.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Checks that the process may open enough files to start.
///
/// # Errors
///
/// A [`Failure`] if the limit is too low.
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
