//! Errors whose reason lies in this node and not in the target.

use std::{error::Error, io};

use hickory_resolver::net::NetError;
use rustix::io::Errno;

#[cfg(test)]
mod tests;

/// Returns the resource that this node is short of, and the remedy, if the error or one of its sources shows
/// that.
pub(super) fn distress(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(NetError::Io(io)) = error.downcast_ref::<NetError>()
            && let Some(distress) = of_io(io)
        {
            return Some(distress);
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(distress) = of_io(io)
        {
            return Some(distress);
        }
        next = error.source();
    }
    None
}

fn of_io(error: &io::Error) -> Option<&'static str> {
    if let Some(inner) = error.get_ref() {
        // An `io::Error` that wraps another error does not return that error as its source.
        return distress(inner);
    }
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
