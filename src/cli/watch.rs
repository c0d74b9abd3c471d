//! `watch`: nodes' state as it changes.

use clap::Args;

use super::exit::Failure;

/// Shows changes of nodes' state, until Ctrl-C
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {}

pub(crate) async fn watch(_args: WatchArgs) -> Result<(), Failure> {
    Ok(())
}
