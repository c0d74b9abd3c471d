//! Asks for a TCP connection.

use tokio::net::TcpStream;

use super::{Answer, Failure, since};
use crate::{engine::BootTime, operator::uptime::resource::TcpTarget};

pub(super) async fn ask(target: &TcpTarget, began: BootTime) -> Result<Answer, Failure> {
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|error| Failure::of("cannot connect", &error))?;
    let latency = since(began);
    let text = match stream.peer_addr() {
        Ok(peer) => format!("connected to {peer}"),
        Err(_) => "connected".to_owned(),
    };
    Ok(Answer { latency, text, wrong: None, certificate_expires: None })
}
