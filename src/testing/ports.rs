//! Ports for servers that take their port from a flag.

use std::{io, net::SocketAddr};

use tokio::net::TcpSocket;

/// A port of loopback that is kept for one server, however often that server ends and starts again.
///
/// A socket is bound to the port with `SO_REUSEADDR` and never listens. Linux then gives the port to no process
/// that asks for any free port. A server that asks for this port with `SO_REUSEADDR`, as servers in Go and Rust do, gets
/// it. Until a server listens, connections to the port are refused.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// # Errors
    ///
    /// If the process has no file descriptor left, or the machine no port.
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    /// Address of the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_server_gets_its_reserved_port_again_and_again() {
        let port = ReservedPort::new().unwrap();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address()).is_err(), "no server listens yet");
            let server = TcpListener::bind(port.address()).unwrap();
            TcpStream::connect(port.address()).unwrap();
            drop(server);
        }
    }

    #[test]
    fn no_other_socket_gets_a_reserved_port() {
        let port = ReservedPort::new().unwrap();
        // For the kernel, a request for any free port is one without `SO_REUSEADDR` as well.
        let refused = TcpSocket::new_v4().unwrap().bind(port.address()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
