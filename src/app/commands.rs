//! The commands that every program of this library has: they show a cluster, and change it.

use std::process::ExitCode;

use clap::Subcommand;

use super::{check, exit::Failure, inspect, state, steer, supervise, watch};
use crate::k8s::crd::CustomResourceDefinition;

/// Commands about a cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum SharedCommand {
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
}

impl SharedCommand {
    /// Default log filter of the command: long-running commands log more.
    pub(crate) fn log_filter(&self) -> &'static str {
        match self {
            Self::Supervise(_) => "info",
            Self::Watch(_) => "warn",
            _ => "error",
        }
    }

    /// Runs the command of a program with these custom resources.
    ///
    /// # Errors
    ///
    /// The [`Failure`] of the command.
    pub(crate) async fn run(
        self,
        definitions: &[CustomResourceDefinition],
    ) -> Result<ExitCode, Failure> {
        let done = Ok(ExitCode::SUCCESS);
        match self {
            Self::Supervise(args) => supervise::run(args).await,
            Self::Status(args) => inspect::status(args).await.and(done),
            Self::Nodes(args) => inspect::nodes(args).await.and(done),
            Self::Leader(args) => inspect::leader(args).await.and(done),
            Self::Shards(args) => inspect::shards(args).await.and(done),
            Self::Get(args) => state::get(args).await.and(done),
            Self::Put(args) => state::put(args).await.and(done),
            Self::Delete(args) => state::delete(args).await.and(done),
            Self::Watch(args) => watch::watch(args).await.and(done),
            Self::Resign(args) => steer::resign(args).await.and(done),
            Self::Drain(args) => steer::drain(args).await.and(done),
            Self::Undrain(args) => steer::undrain(args).await.and(done),
            Self::Check(args) => check::check(args, definitions).await.and(done),
        }
    }
}
