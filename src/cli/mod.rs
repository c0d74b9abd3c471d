//! The command line of the `bellwether` program: parses the arguments and runs the command.

mod apiserver;
mod args;
mod check;
mod connect;
mod crds;
mod demo;
mod exit;
mod inspect;
mod limits;
mod live;
mod output;
mod print;
mod report;
mod run;
mod serve;
mod state;
mod steer;
mod supervise;
mod variables;
mod watch;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use bellwether::telemetry::logs::{self, LogFormat, LogOptions};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::exit::{Exit, Failure};

/// Highly available controllers: one node leads, the others do the shard work
#[derive(Parser, Debug)]
#[command(name = "bellwether", version, after_help = exit::TABLE, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    logs: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Logs")]
struct LogArgs {
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

#[derive(Subcommand, Debug)]
enum Command {
    Demo(demo::DemoArgs),
    Run(Box<run::RunArgs>),
    Supervise(supervise::SuperviseArgs),
    Status(inspect::StatusArgs),
    /// Lists the live nodes
    Nodes(inspect::ReadArgs),
    /// Names the leader; exit code 3 if no node leads
    Leader(inspect::ReadArgs),
    Shards(inspect::ShardsArgs),
    Get(state::GetArgs),
    Put(state::PutArgs),
    Delete(state::DeleteArgs),
    Watch(watch::WatchArgs),
    Resign(steer::ResignArgs),
    Drain(steer::DrainArgs),
    Undrain(steer::UndrainArgs),
    Check(check::CheckArgs),
    Crds(crds::CrdsArgs),
    Dashboards(print::DashboardsArgs),
    Alerts(print::AlertsArgs),
}

impl Command {
    /// Default log filter of the command: long-running commands log more.
    fn log_filter(&self) -> &'static str {
        match self {
            Self::Demo(_) => "warn,bellwether::cli=info",
            Self::Run(_) | Self::Supervise(_) => "info",
            Self::Watch(_) => "warn",
            _ => "error",
        }
    }

    /// Whether the command runs users' work, which must not be able to delay the rest.
    fn runs_work(&self) -> bool {
        matches!(self, Self::Demo(_) | Self::Run(_))
    }
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    let command = variables::taken(Cli::command());
    let words: Vec<_> = std::env::args_os().collect();
    let parsed = command.clone().try_get_matches_from(&words);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
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
    match start(cli) {
        Ok(code) => code,
        Err(failure) => {
            let exit = failure.exit;
            if exit != Exit::Done {
                logs::last_words(move || eprintln!("bellwether: {failure}"));
            }
            exit.into()
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    let options = LogOptions {
        format: cli.logs.log_format,
        filter: cli.logs.filter.unwrap_or_else(|| cli.command.log_filter().into()),
        colour: io::stderr().is_terminal(),
    };
    if cli.command.runs_work() {
        limits::raise();
    }
    limits::are_enough()?;
    // The TLS provider for etcd, checks and the command line itself; installed before the first connection.
    bellwether::tls::install();
    let _logs = logs::init(&options)
        .map_err(|error| Failure::caused(Exit::Usage, "--log (BELLWETHER_LOG)", &error))?;
    let mut runtime = if cli.command.runs_work() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::caused(Exit::Local, "starting the runtime", &error))?;
    let done = runtime.block_on(run(cli.command));
    // Calls in flight must not delay the exit.
    runtime.shutdown_background();
    done
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    let done = Ok(ExitCode::SUCCESS);
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Run(args) => run::run(*args).await,
        Command::Supervise(args) => supervise::run(args).await,
        Command::Status(args) => inspect::status(args).await.and(done),
        Command::Nodes(args) => inspect::nodes(args).await.and(done),
        Command::Leader(args) => inspect::leader(args).await.and(done),
        Command::Shards(args) => inspect::shards(args).await.and(done),
        Command::Get(args) => state::get(args).await.and(done),
        Command::Put(args) => state::put(args).await.and(done),
        Command::Delete(args) => state::delete(args).await.and(done),
        Command::Watch(args) => watch::watch(args).await.and(done),
        Command::Resign(args) => steer::resign(args).await.and(done),
        Command::Drain(args) => steer::drain(args).await.and(done),
        Command::Undrain(args) => steer::undrain(args).await.and(done),
        Command::Check(args) => check::check(args).await.and(done),
        Command::Crds(args) => crds::crds(&args).and(done),
        Command::Dashboards(_) => print::dashboards().and(done),
        Command::Alerts(args) => print::alerts(&args).and(done),
    }
}

#[cfg(test)]
mod tests;
