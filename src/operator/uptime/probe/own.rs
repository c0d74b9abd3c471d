//! Errors whose reason lies in this node and not in the target.

use std::{error::Error, io};

use hickory_resolver::net::NetError;
use rustix::io::Errno;

use crate::causes::causes;

#[cfg(test)]
mod tests;

/// Returns the resource that this node is short of, and the remedy, if the error or one of its sources shows
/// that.
pub(super) fn distress(error: &(dyn Error + 'static)) -> Option<&'static str> {
    causes(error).find_map(|cause| match cause.downcast_ref::<NetError>() {
        // hickory leaves out this error as a source.
        Some(NetError::Io(io)) => causes(&**io).find_map(|it| of_io(it.downcast_ref()?)),
        _ => of_io(cause.downcast_ref()?),
    })
}

fn of_io(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some(
            "this node has no file descriptors left: raise the limit of its process (`ulimit -n`, \
             `LimitNOFILE=`)",
        ),
        Errno::NFILE => Some("this machine has no file descriptors left: raise `fs.file-max`"),
        Errno::NOBUFS | Errno::NOMEM => Some("this machine has no memory left for connections"),
        _ => None,
    }
}
