//! Command `demo`: three nodes in one process, on one memory store: an election to watch without installing
//! anything. Real engine, real driver, real checks; only the store is in memory.

mod narrator;
mod per_node;
mod stage;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;

use self::stage::Stage;
use crate::app::{args, exit::Failure, output, serve, settings::Profile};
use crate::telemetry::metrics;

/// Shows an election: three nodes in this process, and a status page
#[derive(Args, Debug)]
#[command(after_long_help = "\
Open the page, make the leader resign or kill it, and see who takes over. From another terminal:
  bellwether resign --url http://127.0.0.1:8080
Ctrl-C leaves cleanly, a second one ends at once.")]
pub(crate) struct DemoArgs {
    /// Number of nodes to start
    #[arg(
        long,
        value_name = "COUNT",
        env = "BELLWETHER_DEMO_NODES",
        default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(1..=50)
    )]
    nodes: u8,

    /// Where the status page listens; port 0 for any that is free
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "BELLWETHER_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    listen: String,

    /// Folder with `UptimeCheck` manifests (*.yaml), instead of the bundled ones
    #[arg(long, value_name = "FOLDER", env = "BELLWETHER_CHECKS")]
    checks: Option<PathBuf>,

    /// How fast a silent leader is replaced: fast 0.44 s, default 1.1 s, stable 3.3 s
    #[arg(
        long,
        value_name = "PROFILE",
        env = "BELLWETHER_PROFILE",
        value_enum,
        default_value_t = Profile::Default
    )]
    profile: Profile,

    /// How long a killed node stays away
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_DEMO_AWAY",
        default_value = "3s",
        value_parser = args::duration
    )]
    away: Duration,
}

/// Time limit of a clean leave.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the demonstration, until Ctrl-C.
///
/// # Errors
///
/// A [`Failure`] if the port cannot be bound or the nodes cannot be set up.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let signals = serve::signals()?;
    let mut page = serve::bind(&args.listen, &[]).await?;
    let address = page.address();
    let registry = metrics::registry().map_err(|error| serve::metric_twice(&error))?;
    let (stage, reading) = Stage::set(&args, address, &registry).await?;
    let stage = Arc::new(stage);
    page.serve(Arc::clone(&stage) as _, registry).map_err(|error| serve::metric_twice(&error))?;
    output::print(&format!(
        "{} nodes in this process, on a store in memory.\n\n  status page   http://{}/\n  resign        \
         bellwether resign --url http://{}\n  end           Ctrl-C\n\n",
        args.nodes, address, address
    ))?;
    let left = signals.unless_aborted(stage.play(signals.leave(), reading)).await;
    page.close().await;
    left?.map(|()| ExitCode::SUCCESS)
}
