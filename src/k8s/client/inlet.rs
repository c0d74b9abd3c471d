//! A connection whose bytes may wait in the kernel until somebody wants them.
//!
//! A runtime is woken by every packet of every socket it polls, and for small events that costs more than
//! the events themselves. A socket that rests is taken out of the poll set as soon as it has been read up,
//! and put back when it is to be read again. What comes meanwhile waits in its receive buffer; when that
//! is full, TCP makes the server wait.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Lets a connection rest. It comes with each answer, in its extensions, and is for the connection that
/// the answer's body is read from: whoever has it read on before the body ends. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inlet(Arc<State>);

#[derive(Debug, Default)]
struct State {
    rests: AtomicBool,
    reader: AtomicWaker,
}

impl Inlet {
    /// What has come is still read, what comes from then on is not.
    pub(crate) fn rest(&self) {
        self.0.rests.store(true, SeqCst);
    }

    /// It is read again.
    pub(crate) fn resume(&self) {
        if self.0.rests.swap(false, SeqCst) {
            self.0.reader.wake();
        }
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.0.rests.load(SeqCst)
    }
}

/// A connection that may rest.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    inlet: Inlet,
    /// Whether somebody waits to write, who is woken by the poll set only.
    write_waits: bool,
}

#[derive(Debug)]
enum Stream {
    /// In the runtime's poll set.
    Polled(TcpStream),
    /// Taken out of it.
    Resting(std::net::TcpStream),
    /// It could not be moved from one to the other, as was said when it was tried.
    Lost,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream: Stream::Polled(stream), inlet: Inlet::default(), write_waits: false }
    }

    /// The stream, in the poll set.
    fn polled(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Stream::Resting(_) = &self.stream
            && let Stream::Resting(stream) = std::mem::replace(&mut self.stream, Stream::Lost)
        {
            self.stream = Stream::Polled(TcpStream::from_std(stream)?);
        }
        match &mut self.stream {
            Stream::Polled(stream) => Ok(Pin::new(stream)),
            Stream::Resting(_) | Stream::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Takes it out of the poll set.
    fn lay_down(&mut self) -> io::Result<()> {
        self.stream = match std::mem::replace(&mut self.stream, Stream::Lost) {
            Stream::Polled(stream) => Stream::Resting(stream.into_std()?),
            other => other,
        };
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Stream::Resting(_) = self.stream {
            // First the waker, then the question: or a call that comes between would wake nobody.
            self.inlet.0.reader.register(cx.waker());
            if self.inlet.is_resting() {
                return Poll::Pending;
            }
        }
        if let Poll::Ready(read) = self.polled()?.poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        if self.inlet.is_resting() && !self.write_waits {
            self.inlet.0.reader.register(cx.waker());
            if self.inlet.is_resting() {
                self.lay_down()?;
            }
        }
        Poll::Pending
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = self.polled()?.poll_write(cx, bytes);
        self.write_waits = wrote.is_pending();
        wrote
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has what was written. HTTP flushes at every turn: that is no reason to be polled.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.polled()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = self.polled()?.poll_write_vectored(cx, slices);
        self.write_waits = wrote.is_pending();
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        let connected = match &self.stream {
            Stream::Polled(stream) => stream.connected(),
            Stream::Resting(_) | Stream::Lost => Connected::new(),
        };
        connected.extra(self.inlet.clone())
    }
}

#[cfg(test)]
mod tests;
