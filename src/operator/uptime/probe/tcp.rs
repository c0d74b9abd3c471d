//! Opens a TCP connection to the target.

use std::time::Duration;

use super::{Answer, Failure, Prober, connect::connect, since};
use crate::{
    engine::BootTime, operator::uptime::crd::forms::ascii_host,
    operator::uptime::resource::TcpTarget,
};

pub(super) async fn ask(
    prober: &Prober,
    target: &TcpTarget,
    began: BootTime,
    timeout: Duration,
) -> Result<Answer, Failure> {
    let host = ascii_host(&target.host).ok_or_else(|| Failure::new("the host is no name"))?;
    let stream = connect(&prober.names, &host, target.port, timeout).await?;
    let latency = since(began);
    let text = match stream.peer_addr() {
        Ok(peer) => format!("connected to {peer}"),
        Err(_) => "connected".to_owned(),
    };
    Ok(Answer { text, ..Answer::after(latency) })
}
