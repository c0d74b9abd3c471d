//! Logs: set up once, by the program. Text for people, JSON for machines, always to standard error.
//!
//! The one rule: no secrets. Below `info` some libraries print what they send, headers with tokens
//! among it, so theirs never goes below, whatever the filter says.

use std::{fmt, io, str::FromStr};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt as _,
    registry::LookupSpan, util::SubscriberInitExt as _,
};

/// Libraries that handle other people's credentials on the wire.
const CAPPED: [&str; 11] = [
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tonic",
    "tower",
    "etcd_client",
    "hickory_net",
    "kube_client",
    "tower_http",
];

/// Prints every answer that it cannot parse, whole, as a warning: Secrets among them.
const SILENT: &str = "kube_client::client";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(name.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Text or JSON.
    pub format: LogFormat,
    /// What is logged: a level, or levels by module (`info,bellwether::node=debug`).
    pub filter: String,
    /// Whether text is coloured. Wise only on a terminal.
    pub colour: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned(), colour: false }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No such format.
    #[error("log format '{0}' is not one of: text, json")]
    Format(String),
    /// The filter cannot be read.
    #[error(
        "log filter '{filter}' cannot be read: give a level (error, warn, info, debug, trace) or \
         levels by module, as in 'info,bellwether::node=debug'"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody set up logging before.
    #[error("logging is set up already")]
    AlreadySetUp,
}

/// Sends the program's logs to standard error, as `options` say.
///
/// # Errors
///
/// [`LogError`]; nothing changed then.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    subscriber(options, io::stderr)?.try_init().map_err(|_| LogError::AlreadySetUp)
}

/// What [`init`] sets up, writing to `writer`.
///
/// # Errors
///
/// [`LogError::Filter`].
pub fn subscriber<W>(
    options: &LogOptions,
    writer: W,
) -> Result<impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&options.filter)
        .map_err(|source| LogError::Filter { filter: options.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match options.format {
        LogFormat::Text => lines.with_ansi(options.colour).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
    };
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter_fn(is_harmless))).with(filter))
}

fn is_harmless(event: &Metadata<'_>) -> bool {
    let library = event.target().split("::").next().unwrap_or_default();
    event.target() != SILENT && (*event.level() <= Level::INFO || !CAPPED.contains(&library))
}

#[cfg(test)]
mod tests;
