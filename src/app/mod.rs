//! The program of an operator: its settings, its command line and its life.
//!
//! [`App`] gives an operator the commands that each program of this library has: `run`, `status`, `check`,
//! `print` and the others. [`Settings`] alone are for a program with a command line of its own, or without
//! one.

mod apiserver;
pub(crate) mod args;
mod check;
pub(crate) mod commands;
pub(crate) mod connect;
pub(crate) mod crds;
pub(crate) mod exit;
mod inspect;
pub(crate) mod launch;
pub(crate) mod life;
mod limits;
mod live;
pub(crate) mod logs;
#[doc(hidden)]
pub mod monitoring;
pub(crate) mod output;
pub(crate) mod print;
mod report;
pub(crate) mod serve;
pub(crate) mod settings;
mod state;
mod steer;
mod supervise;
mod variables;
mod watch;

use std::{ffi::OsString, fmt, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

pub(crate) use self::apiserver::When;
use self::{
    commands::SharedCommand,
    launch::{Launch, Start},
    logs::LogArgs,
    print::{Described, PrintArgs},
};
pub use self::{exit::Failure, settings::Settings};
use crate::{
    k8s::{
        crd::{self, CustomResourceDefinition},
        operator::Operator,
        rbac::Rules,
    },
    telemetry::program::{self, Program},
};

/// Function that adds the controllers of a program to its operator.
type Compose = Box<dyn Fn(Operator, &Settings) -> Operator>;

/// The program of an operator, with a command line.
///
/// | command | what it does |
/// | --- | --- |
/// | `run` | runs the operator; its flags are the [`Settings`] |
/// | `print crds\|rbac\|dashboards\|alerts` | prints what the operator brings to a cluster |
/// | `status`, `nodes`, `leader`, `shards`, `check` | show the cluster, and whether it is healthy |
/// | `resign`, `drain`, `undrain` | move the office, and take a node out of work |
/// | `get`, `put`, `delete`, `watch` | read and write the state of the nodes |
/// | `supervise` | runs the program as a child, and ends its incarnation once the child is dead |
///
/// ```no_run
/// use std::{process::ExitCode, sync::Arc};
///
/// use bellwether::{
///     app::{App, Settings},
///     k8s::{k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap}, prelude::*},
/// };
///
/// async fn reconcile(object: Arc<Deployment>, ctx: Context) -> Result<Action, ReconcileError> {
///     Ok(Action::done())
/// }
///
/// fn operator(operator: Operator, _: &Settings) -> Operator {
///     operator.controller(Controller::<Deployment>::new(reconcile).owns::<ConfigMap>())
/// }
///
/// fn main() -> ExitCode {
///     App::new("shop", env!("CARGO_PKG_VERSION")).operator(operator).main()
/// }
/// ```
pub struct App {
    name: &'static str,
    version: &'static str,
    about: &'static str,
    definitions: Vec<CustomResourceDefinition>,
    compose: Compose,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Command line of an [`App`].
#[derive(Parser, Debug)]
#[command(after_help = exit::TABLE, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    logs: LogArgs,
    #[command(subcommand)]
    command: AppCommand,
}

#[derive(Subcommand, Debug)]
enum AppCommand {
    /// Runs the operator: the controllers on the leader, the work of shards on the followers
    #[command(after_long_help = "\
The node joins, campaigns, and works. While the store or the API server cannot be reached it keeps trying, and says so in \
the log and on /readyz. SIGTERM, SIGINT (Ctrl-C) and SIGHUP end its work, hand office and shards over, and leave; a second \
SIGTERM or SIGINT ends at once. Copies of one request within a second are one request.

On a developer's machine, one node with the kubeconfig's cluster:
  run --store memory")]
    Run(Box<Settings>),
    #[command(flatten)]
    Shared(Box<SharedCommand>),
    Print(PrintArgs),
}

impl App {
    /// Creates the program `name`, in lower case: it becomes the name of the cluster and of the charts' objects. The
    /// version of a program is `env!("CARGO_PKG_VERSION")`.
    pub fn new(name: &'static str, version: &'static str) -> Self {
        Self {
            name,
            version,
            about: "Highly available operator",
            definitions: vec![crd::election()],
            compose: Box::new(|operator, _| operator),
        }
    }

    /// Sets the first line of `--help`. Default: `Highly available operator`.
    #[must_use]
    pub fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// Adds definitions of custom resources of the operator, for `print crds` and `check`. `Election` is in the
    /// list already.
    #[must_use]
    pub fn crds(mut self, more: impl IntoIterator<Item = CustomResourceDefinition>) -> Self {
        self.definitions.extend(more.into_iter().map(crd::tidied));
        self
    }

    /// Sets the function that adds the controllers to the operator. `print rbac` calls it too, without an API
    /// server: the function must not send requests.
    #[must_use]
    pub fn operator(mut self, compose: impl Fn(Operator, &Settings) -> Operator + 'static) -> Self {
        self.compose = Box::new(compose);
        self
    }

    /// Permissions that the operator needs, from what its controllers declare: what `print rbac` prints.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn rules(&self) -> Rules {
        let settings = Settings::defaults(self.name);
        (self.compose)(Operator::unconnected(self.name), &settings).rules()
    }

    /// Definitions of the custom resources of this operator, sorted by name: what `print crds` prints.
    pub fn definitions(&self) -> Vec<CustomResourceDefinition> {
        let mut all = self.definitions.clone();
        all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        all
    }

    /// Parses the command line of the process, runs the command, and returns the exit code of the process.
    pub fn main(self) -> ExitCode {
        self.main_with(std::env::args_os())
    }

    /// As [`main`](Self::main), with these words as the command line. The first one is the program.
    pub fn main_with(self, words: impl IntoIterator<Item = OsString>) -> ExitCode {
        program::set(Program { name: self.name, version: self.version });
        let command =
            settings::named(Cli::command(), self.name).version(self.version).about(self.about);
        let start = |cli: &Cli| Start {
            logs: cli.logs.clone(),
            filter: match &cli.command {
                AppCommand::Run(_) => "info",
                AppCommand::Shared(command) => command.log_filter(),
                AppCommand::Print(_) => "error",
            },
            runs_work: matches!(cli.command, AppCommand::Run(_)),
        };
        let words = words.into_iter().collect();
        Launch { command, words, start }.main(|cli: Cli| self.run(cli.command))
    }

    async fn run(self, command: AppCommand) -> Result<ExitCode, Failure> {
        match command {
            AppCommand::Run(settings) => {
                life::until_signalled(|leave| async move {
                    let operator = Operator::from_settings(&settings).await?;
                    let operator = (self.compose)(operator, &settings);
                    Ok(operator.run(leave.cancelled()).await?)
                })
                .await
            }
            AppCommand::Shared(command) => command.run(&self.definitions()).await,
            AppCommand::Print(args) => {
                let (definitions, rules) = (self.definitions(), self.rules());
                let (name, version) = (self.name, self.version);
                let (alerts, dashboards) = (&[][..], monitoring::dashboards(name));
                args.print(Described { name, version, definitions, rules, dashboards, alerts })?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
