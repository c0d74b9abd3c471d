use std::sync::Arc;

use super::*;

/// An error with another one behind it.
#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] Box<dyn Error + Send + Sync>);

fn io(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

#[test]
fn what_this_node_is_short_of_is_found_wherever_it_is_in_the_chain() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        assert!(distress(&io(errno)).is_some());
        assert!(distress(&Outer(Box::new(io(errno)))).is_some());
        assert!(distress(&io::Error::other(io(errno))).is_some());
        assert!(distress(&io::Error::other(Outer(Box::new(io(errno))))).is_some());
        assert!(distress(&Outer(Box::new(NetError::Io(Arc::new(io(errno)))))).is_some());
    }
}

#[test]
fn what_lies_in_the_target_or_on_the_way_is_none_of_it() {
    for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT, Errno::CONNRESET] {
        assert_eq!(distress(&Outer(Box::new(io(errno)))), None);
    }
    assert_eq!(distress(&io::Error::other("text")), None);
}
