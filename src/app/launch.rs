//! The start of a process: the command line, the limits, the logs and the runtime.

use std::{ffi::OsString, process::ExitCode};

use clap::{Command, FromArgMatches};

use super::{
    exit::{Exit, Failure},
    limits,
    logs::LogArgs,
    variables,
};
use crate::telemetry::logs;

/// How a process starts for a command.
pub(crate) struct Start {
    pub(crate) logs: LogArgs,
    /// Log filter, unless the flags give one.
    pub(crate) filter: &'static str,
    /// Whether the command runs users' work, which must not be able to delay the rest.
    pub(crate) runs_work: bool,
}

/// A command line, and how the process starts for each of its commands.
pub(crate) struct Launch<S> {
    pub(crate) command: Command,
    /// Words of the command line. The first one is the program.
    pub(crate) words: Vec<OsString>,
    pub(crate) start: S,
}

impl<S> Launch<S> {
    /// Parses the command line, runs the command, and returns the exit code of the process.
    pub(crate) fn main<P, F>(self, run: impl FnOnce(P) -> F) -> ExitCode
    where
        P: FromArgMatches,
        S: FnOnce(&P) -> Start,
        F: Future<Output = Result<ExitCode, Failure>>,
    {
        let name = self.command.get_name().to_owned();
        let command = variables::taken(self.command);
        let words = self.words;
        let parsed = command.clone().try_get_matches_from(&words);
        let cli = match parsed.and_then(|matches| P::from_arg_matches(&matches)) {
            Ok(cli) => cli,
            Err(error) => {
                // Help and version are not errors, and go to standard output.
                let _ = error.print();
                if let Some(note) = variables::named(&error, &command, &words) {
                    eprintln!("\n{note}");
                }
                return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
            }
        };
        match started((self.start)(&cli), || run(cli)) {
            Ok(code) => code,
            Err(failure) => {
                let exit = failure.exit;
                if exit != Exit::Done {
                    logs::last_words(move || eprintln!("{name}: {failure}"));
                }
                exit.into()
            }
        }
    }
}

fn started<F>(start: Start, run: impl FnOnce() -> F) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<ExitCode, Failure>>,
{
    if start.runs_work {
        limits::raise();
    }
    limits::are_enough()?;
    // The TLS provider for etcd, checks and the command line itself; installed before the first connection.
    crate::tls::install();
    let _logs = start.logs.start(start.filter)?;
    let mut runtime = if start.runs_work {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::caused(Exit::Local, "starting the runtime", &error))?;
    let done = runtime.block_on(run());
    // Calls in flight must not delay the exit.
    runtime.shutdown_background();
    done
}
