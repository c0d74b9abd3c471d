//! Settings of a program with a node: everything that flags and `BELLWETHER_*` variables set.

mod host;
mod node;
mod operator;
pub(crate) mod timing;

use std::ffi::OsString;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};

use self::node::NodeArgs;
pub(crate) use self::{
    host::{Api, POD_NAME, Prepared, is_set},
    timing::Profile,
};
use super::{
    args::ClusterArgs,
    exit::{Exit, Failure},
    logs::LogArgs,
    variables,
};
use crate::{
    host::Host,
    k8s::cache::Scope,
    telemetry::{
        logs::Logs,
        program::{self, Program},
    },
};

/// Settings of a program with a node: cluster and store, identity, timing, status server, and the Kubernetes
/// objects that it works on.
///
/// Each setting is a flag and a variable `BELLWETHER_…`; `docs/cli.md` lists both. [`App`](super::App) parses
/// them for the command `run`. A program with a command line of its own flattens them into it
/// (`#[command(flatten)]`), and a program without one reads the variables alone with
/// [`from_env`](Self::from_env).
#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) objects: ObjectArgs,
}

/// Objects that the controllers of the program take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct ObjectArgs {
    /// Take the objects of all namespaces; needs a `ClusterRole`
    #[arg(long, env = "BELLWETHER_ALL_NAMESPACES")]
    all_namespaces: bool,

    /// Take only the objects that this label selector picks, like team=a or team!=b. Two clusters that see the same
    /// namespaces need selectors that pick different objects
    #[arg(
        long,
        visible_alias = "check-selector",
        value_name = "SELECTOR",
        env = "BELLWETHER_SELECTOR",
        value_parser = selector
    )]
    selector: Option<String>,
}

impl ObjectArgs {
    /// Scope of these objects for a program in that namespace.
    fn scope(&self, namespace: &str) -> Scope {
        let scope = if self.all_namespaces { Scope::all() } else { Scope::namespace(namespace) };
        match &self.selector {
            Some(selector) => scope.labels(selector),
            None => scope,
        }
    }
}

/// Parses a label selector by its characters only: the API server validates the rest.
fn selector(text: &str) -> Result<String, String> {
    let fits = |it: char| it.is_ascii_alphanumeric() || "./_=!(), -".contains(it);
    if text.trim().is_empty() || !text.chars().all(fits) {
        return Err(
            "is not a label selector: write it like team=a, team!=b or team in (a,b)".into()
        );
    }
    Ok(text.to_owned())
}

/// Command line of a program that reads only variables.
#[derive(Parser)]
struct FromEnv {
    #[command(flatten)]
    logs: LogArgs,
    #[command(flatten)]
    settings: Settings,
}

impl Settings {
    /// Reads the settings of a program from the variables `BELLWETHER_…` alone, and starts the logs as
    /// `BELLWETHER_LOG` and `BELLWETHER_LOG_FORMAT` say. The cluster has the name of the program, unless
    /// `BELLWETHER_CLUSTER` names another. The program keeps [`Logs`] until its end.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that names the variable, its value and the remedy.
    pub fn from_env(program: Program) -> Result<(Self, Logs), Failure> {
        let name = program.name;
        program::set(program);
        let command = variables::taken(named(FromEnv::command(), name));
        let words = [OsString::from(name)];
        let parsed = command.clone().try_get_matches_from(&words);
        let parsed = parsed.and_then(|matches| FromEnv::from_arg_matches(&matches));
        let FromEnv { logs, settings } = parsed.map_err(|error| {
            let text = error.to_string();
            let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            let failure = Failure::new(Exit::Usage, what);
            match variables::named(&error, &command, &words) {
                Some(note) => failure.try_this(note.trim_start_matches("note: ")),
                None => failure,
            }
        })?;
        crate::tls::install();
        Ok((settings, logs.start("info")?))
    }

    /// Settings of the program `name` without any flag or variable.
    pub(super) fn defaults(name: &'static str) -> Self {
        let command = named(FromEnv::command(), name)
            .mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let parsed = command.try_get_matches_from([name]);
        parsed
            .and_then(|matches| FromEnv::from_arg_matches(&matches))
            .expect("every setting has a default")
            .settings
    }

    /// Name of the cluster that the nodes form.
    pub fn cluster(&self) -> &str {
        self.cluster.cluster.cluster()
    }

    /// Binds the status server, and composes the [`Host`] of a program without controllers.
    /// [`Operator::from_settings`](crate::k8s::operator::Operator::from_settings) is the same for an operator.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that names the setting, its value and the remedy. A store that does not answer is not an
    /// error: the node joins once it does.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the status server is closed.
    pub async fn host(&self) -> Result<Host, Failure> {
        self.prepare(Api::Unused).await.map(|it| it.host)
    }
}

/// The command line as that of the program `name`: in its texts, and as the default of the cluster's name.
pub(crate) fn named(command: clap::Command, name: &'static str) -> clap::Command {
    with_default_cluster(command, name).name(name)
}

fn with_default_cluster(command: clap::Command, name: &'static str) -> clap::Command {
    let command = command
        .mut_args(|arg| if arg.get_id() == "cluster" { arg.default_value(name) } else { arg });
    let command = match command.get_after_long_help().map(ToString::to_string) {
        Some(text) => command.after_long_help(text.replace("bellwether ", &format!("{name} "))),
        None => command,
    };
    command.mut_subcommands(|command| with_default_cluster(command, name))
}

#[cfg(test)]
mod tests;
