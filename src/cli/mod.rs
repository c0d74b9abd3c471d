//! The command line of the `bellwether` program: the commands of each program, and those of the reference work.

mod demo;
mod new;
mod run;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    app::{
        commands::SharedCommand,
        crds::{self, CrdsArgs},
        exit::{self, Failure},
        launch::{Launch, Start},
        logs::LogArgs,
        monitoring::{self, Dashboard, RuleFile},
        print::{self, AlertsArgs, DashboardsArgs, Described, PrintArgs},
    },
    operator::{self, uptime::metrics::UptimeMetrics},
    telemetry::metrics::describe,
};

/// Highly available controllers: one node leads, the others do the shard work
#[derive(Parser, Debug)]
#[command(name = "bellwether", version, after_help = exit::TABLE, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    logs: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(demo::DemoArgs),
    Run(Box<run::RunArgs>),
    #[command(flatten)]
    Shared(Box<SharedCommand>),
    Print(PrintArgs),
    Crds(CrdsArgs),
    Dashboards(DashboardsArgs),
    Alerts(AlertsArgs),
    New(new::NewArgs),
}

/// Name of the reference operator.
const NAME: &str = "bellwether";

/// Alert rules that only the reference operator has.
pub const ALERTS: &[RuleFile] = &[RuleFile {
    name: "uptime.yaml",
    text: include_str!("../../charts/bellwether/files/alerts/uptime.yaml"),
}];

fn described() -> Described<'static> {
    Described {
        name: NAME,
        version: env!("CARGO_PKG_VERSION"),
        definitions: operator::definitions(),
        rules: run::rules(),
        dashboards: dashboards(),
        alerts: ALERTS,
    }
}

/// All dashboards of the reference operator.
pub fn dashboards() -> Vec<Dashboard> {
    let uptime = include_str!("../operator/uptime/dashboard.yaml");
    let metrics = describe(&UptimeMetrics::collectors());
    let mut all = monitoring::dashboards(NAME);
    all.push(monitoring::own_dashboard(uptime, "uptime", NAME, metrics));
    all
}

impl Command {
    /// Default log filter of the command: long-running commands log more.
    fn log_filter(&self) -> &'static str {
        match self {
            Self::Demo(_) => "warn,bellwether::cli=info",
            Self::Run(_) => "info",
            Self::Shared(command) => command.log_filter(),
            Self::Print(_)
            | Self::Crds(_)
            | Self::Dashboards(_)
            | Self::Alerts(_)
            | Self::New(_) => "error",
        }
    }

    async fn run(self) -> Result<ExitCode, Failure> {
        let done = Ok(ExitCode::SUCCESS);
        match self {
            Self::Demo(args) => demo::run(args).await,
            Self::Run(args) => run::run(*args).await,
            Self::Shared(command) => command.run(&operator::definitions()).await,
            Self::Print(args) => args.print(described()).and(done),
            Self::Crds(args) => crds::crds(&args, operator::definitions()).and(done),
            Self::Dashboards(args) => print::dashboards(&args, &dashboards()).and(done),
            Self::Alerts(args) => print::alerts(&args, ALERTS).and(done),
            Self::New(args) => new::new(&args),
        }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let start = |cli: &Cli| Start {
        logs: cli.logs.clone(),
        filter: cli.command.log_filter(),
        runs_work: matches!(cli.command, Command::Demo(_) | Command::Run(_)),
    };
    let words = std::env::args_os().collect();
    Launch { command: Cli::command(), words, start }.main(|cli: Cli| cli.command.run())
}

#[cfg(test)]
mod tests;
