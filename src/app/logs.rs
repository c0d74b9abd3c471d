//! Flags of the program's logs.

use std::io::{self, IsTerminal as _};

use clap::Args;

use super::exit::{Exit, Failure};
use crate::telemetry::logs::{self, LogFormat, LogOptions, Logs};

/// Filter and format of the logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArgs {
    /// Log filter for standard error: a level, or levels by module (`info,bellwether::node=debug`)
    #[arg(long = "log", global = true, value_name = "FILTER", env = "BELLWETHER_LOG")]
    filter: Option<String>,

    /// text for people, json for machines
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "BELLWETHER_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

impl LogArgs {
    /// Starts the logs, with this filter if the flags give none.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the filter cannot be parsed, or if the process has logs already.
    pub(crate) fn start(self, default_filter: &str) -> Result<Logs, Failure> {
        let options = LogOptions {
            format: self.log_format,
            filter: self.filter.unwrap_or_else(|| default_filter.to_owned()),
            colour: io::stderr().is_terminal(),
        };
        logs::init(&options)
            .map_err(|error| Failure::caused(Exit::Usage, "--log (BELLWETHER_LOG)", &error))
    }
}
