//! Asks for a TCP connection.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Answer, Failure, Prober, since};
use crate::{engine::BootTime, operator::uptime::resource::TcpTarget};

pub(super) async fn ask(
    prober: &Prober,
    target: &TcpTarget,
    began: BootTime,
) -> Result<Answer, Failure> {
    let addresses = prober.names.addresses(&target.host).await;
    let addresses = addresses.map_err(|error| Failure::of("cannot connect", &error))?;
    let addresses: Vec<SocketAddr> =
        addresses.into_iter().map(|address| (address, target.port).into()).collect();
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(|error| Failure::of("cannot connect", &error))?;
    let latency = since(began);
    let text = match stream.peer_addr() {
        Ok(peer) => format!("connected to {peer}"),
        Err(_) => "connected".to_owned(),
    };
    Ok(Answer { latency, text, wrong: None, certificate_expires: None })
}
