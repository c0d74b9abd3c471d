//! Logs: set up once, by the program. Text for people, JSON for machines, always on standard error.
//!
//! There are two rules. No secrets: below `info` some libraries print the headers that they send, tokens
//! included, so no filter can set the level of these libraries below `info`. And logging never blocks its
//! caller: a full pipe behind standard error must not stop the thread that keeps an office. So a separate
//! thread writes the lines, and lines that it cannot write are dropped and counted.

use std::{
    fmt,
    fs::File,
    io,
    os::fd::AsFd as _,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing::{Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt as _,
    registry::LookupSpan, util::SubscriberInitExt as _,
};

use crate::metrics::Build;

/// Libraries that handle credentials on the wire.
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

/// Modules of libraries whose lines are left out. The client prints every answer that it cannot parse, in
/// full, as a warning: Secrets included. The watcher prints the content of our own log line too, in the
/// form of Rust's `Debug`.
const SILENT: [&str; 2] = ["kube_client::client", "kube_runtime::watcher"];

/// Largest number of lines that wait to be written.
const WAITING_LINES: usize = 8 * 1024;

pub(crate) const DROPPED_LINES: &str = "bellwether_log_lines_dropped_total";

/// Counter of dropped lines of the logs that [`init`] has set up.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Number of writes to standard error that failed, with one line each.
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Longest wait for the last output of a process.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(1500);

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people, one line each.
    #[default]
    Text,
    /// JSON for machines, one object per line.
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

/// Options of the program's logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Format, text or JSON.
    pub format: LogFormat,
    /// Filter of lines: a level, or levels by module (`info,bellwether::node=debug`).
    pub filter: String,
    /// Whether text is coloured. Useful only on a terminal.
    pub colour: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned(), colour: false }
    }
}

/// Reason why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// There is no such format.
    #[error("log format '{0}' is not one of: text, json")]
    Format(String),
    /// The filter cannot be parsed.
    #[error(
        "log filter '{filter}' cannot be read: give a level (error, warn, info, debug, trace) or \
         levels by module, as in 'info,bellwether::node=debug'"
    )]
    Filter {
        /// Filter as the caller gave it.
        filter: String,
        /// Reason why the filter is invalid.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Standard error cannot be used.
    #[error("standard error cannot be written to")]
    Output(#[source] io::Error),
    /// Logging was set up before.
    #[error("logging is set up already")]
    AlreadySetUp,
}

/// Handle of logs that are set up. Dropping it waits until all lines so far are written, for 1.5 s at most;
/// later lines are lost.
#[derive(Debug)]
#[must_use = "what is logged after it was dropped is lost"]
pub struct Logs {
    writer: Option<WorkerGuard>,
}

impl Drop for Logs {
    fn drop(&mut self) {
        let writer = self.writer.take();
        // If the guard cannot end, it prints to standard output, which may be blocked as well.
        last_words(move || drop(writer));
    }
}

/// Writes at the end of a process to streams that may have no reader any more: waits for `say` for 1.5 s at
/// most.
#[doc(hidden)]
pub fn last_words(say: impl FnOnce() + Send + 'static) {
    let (said, waits) = mpsc::channel();
    thread::spawn(move || {
        say();
        let _ = said.send(());
    });
    let _ = waits.recv_timeout(LAST_WORDS_WITHIN);
}

/// Standard error; counts the writes that failed.
struct Output(File);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Each write is a whole line; the rest of a line that failed is of no use.
        self.0.write_all(bytes).inspect_err(|_| {
            FAILED.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Sends the program's logs to standard error, according to `options`. Logging never blocks its caller:
/// lines that cannot be written are dropped, and counted in `bellwether_log_lines_dropped_total`.
///
/// # Errors
///
/// [`LogError`]; then nothing changed.
pub fn init(options: &LogOptions) -> Result<Logs, LogError> {
    // A separate handle: code that holds the lock of `io::stderr` does not block the writer.
    let output = io::stderr().as_fd().try_clone_to_owned().map_err(LogError::Output)?;
    let (lines, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("logs")
        .finish(Output(File::from(output)));
    let dropped = lines.error_counter();
    subscriber(options, lines)?.try_init().map_err(|_| LogError::AlreadySetUp)?;
    let _ = DROPPED.set(dropped);
    Ok(Logs { writer: Some(writer) })
}

/// Makes the counter of dropped lines.
pub(super) fn dropped_lines(b: &Build) {
    computed(b, || {
        DROPPED.get().map_or(0, ErrorCounter::dropped_lines) + FAILED.load(Ordering::Relaxed)
    });
}

fn computed(b: &Build, dropped: fn() -> usize) {
    let help = "Log lines that were dropped because standard error did not take them in time.";
    b.computed(|b| {
        let lines = b.counter(DROPPED_LINES, help);
        move || {
            lines.reset();
            lines.inc_by(dropped() as u64);
        }
    });
}

/// Subscriber that [`init`] sets up, which writes to `writer`.
///
/// # Errors
///
/// [`LogError::Filter`].
#[doc(hidden)]
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
    !SILENT.contains(&event.target())
        && (*event.level() <= Level::INFO || !CAPPED.contains(&library))
}

#[cfg(test)]
mod tests;
