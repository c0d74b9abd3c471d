//! A TCP proxy on loopback that breaks connections in the ways networks do.
//!
//! To lose an answer after its request took effect: set [`Fault::CutToClient`], send the request, observe its
//! effect over another connection, then call [`Proxy::reset`].

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Fault that the proxy applies to bytes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault: all bytes pass.
    None,
    /// No byte passes in either direction; connections stay open, new ones are accepted. Bytes sent meanwhile
    /// arrive when the fault is removed, as TCP would deliver them.
    Blackhole,
    /// Bytes from the client do not arrive.
    CutToServer,
    /// Bytes from the server do not arrive.
    CutToClient,
    /// Every piece of data is delayed by this time, in each direction.
    Delay(Duration),
    /// New connections are reset at once, and so are the open ones.
    Refuse,
}

impl Fault {
    fn holds(self, direction: Direction) -> bool {
        match self {
            Self::None | Self::Delay(_) | Self::Refuse => false,
            Self::Blackhole => true,
            Self::CutToServer => direction == Direction::ToServer,
            Self::CutToClient => direction == Direction::ToClient,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// Counters whose growth acts on the open connections.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Epochs {
    /// Reset both sides of each connection.
    reset: usize,
    /// Drop the server's side; the client's side stays open and silent.
    orphan: usize,
}

#[derive(Clone)]
struct Shared {
    target: Arc<watch::Sender<SocketAddr>>,
    fault: Arc<watch::Sender<Fault>>,
    epochs: Arc<watch::Sender<Epochs>>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// A running proxy; ends, with its connections, when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Shared,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free port of loopback in front of `target`, which may change later.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Shared {
            target: Arc::new(watch::Sender::new(target)),
            fault: Arc::new(watch::Sender::new(Fault::None)),
            epochs: Arc::new(watch::Sender::new(Epochs::default())),
            accepted: Arc::default(),
            open: Arc::default(),
        };
        let accepting = bellwether::tasks::spawn("proxy", accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    /// Address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault, also for open connections.
    pub fn set(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
        if fault == Fault::Refuse {
            self.reset();
        }
    }

    /// Resets (RST) every open connection on both sides; bytes on their way are lost.
    pub fn reset(&self) {
        self.shared.epochs.send_modify(|epochs| epochs.reset += 1);
    }

    /// Leaves every open connection half open: the server's side is closed, the client gets no notice, and the
    /// client's bytes are dropped. New connections work.
    pub fn half_open(&self) {
        self.shared.epochs.send_modify(|epochs| epochs.orphan += 1);
    }

    /// Sets the target of new connections.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Number of connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        shared.accepted.fetch_add(1, SeqCst);
        if *shared.fault.borrow() == Fault::Refuse {
            let _ = client.set_zero_linger();
            continue;
        }
        drop(bellwether::tasks::spawn("proxied connection", connection(client, shared.clone())));
    }
}

async fn connection(client: TcpStream, shared: Shared) {
    let _count = Counted::new(shared.open.clone());
    let mut epochs = shared.epochs.subscribe();
    let began = *epochs.borrow_and_update();
    let target = *shared.target.borrow();
    let Ok(mut server) = TcpStream::connect(target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let mut client = client;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::join!(
                pump(from_client, to_server, Direction::ToServer, shared.fault.subscribe()),
                pump(from_server, to_client, Direction::ToClient, shared.fault.subscribe()),
            )
        };
        tokio::select! {
            biased;
            changed = epochs.wait_for(|now| *now != began) => changed.map(|now| *now).ok(),
            _ = both => return,
        }
    };
    let Some(now) = reset else { return };
    let _ = server.set_zero_linger();
    drop(server);
    if now.reset == began.reset {
        // Half open: the proxy drops the client's bytes until a reset.
        let mut nothing = [0; 4096];
        let swallow = async { while client.read(&mut nothing).await.is_ok_and(|n| n > 0) {} };
        tokio::select! {
            biased;
            _ = epochs.wait_for(|now| now.reset != began.reset) => (),
            () = swallow => return,
        }
    }
    let _ = client.set_zero_linger();
}

/// Copies bytes until either side ends, and then closes the other side.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut fault: watch::Receiver<Fault>,
) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut piece).await.unwrap_or(0);
        let Ok(now) = fault.wait_for(|fault| !fault.holds(direction)).await.map(|fault| *fault)
        else {
            return;
        };
        if let Fault::Delay(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if n == 0 || to.write_all(&piece[..n]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
