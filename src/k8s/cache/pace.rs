//! How soon what the API server sends is read.
//!
//! A process that works on a cache's objects, or whose user reads it, reads each event as it comes. One that
//! only keeps the cache warm for the day it leads reads in gulps: being woken for each event costs more than
//! taking it in. Meanwhile events wait in the connection ([`Inlet`]), which is read at once when work begins.
//! What the connection hands on is always taken in at once.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http_body::{Body, Frame};
use tokio::{sync::watch, time::sleep};

use super::Cache;
use crate::k8s::client::Inlet;

/// For whoever only keeps a cache warm, the connection is left alone for this long from the first piece on
/// that it brings, once it has been read up: what is kept is so much older at the most.
const REST: Duration = Duration::from_millis(50);
/// If so many bytes come within that time it is read on, and not left alone the next time: a server whose
/// watchers do not keep up ends their watches. It is half of what Linux lets wait in a connection at first.
const GULP: usize = 64 * 1024;

/// How many there are who need each change of a cache at once.
#[derive(Debug, Default)]
pub(super) struct Attentive(watch::Sender<usize>);

impl Attentive {
    /// One more, as long as what is returned lives.
    pub(super) fn one(&self) -> Attention {
        self.0.send_modify(|count| *count += 1);
        Attention(self.0.clone())
    }

    /// One more for good.
    pub(super) fn for_good(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Whether there is anybody.
    pub(super) fn is_anybody(&self) -> bool {
        0 < *self.0.borrow()
    }
}

/// As long as it lives a cache is read at once.
#[derive(Debug)]
pub(crate) struct Attention(watch::Sender<usize>);

impl Drop for Attention {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What a cache is fed by. Its connection rests while nobody needs at once what it brings.
pub(super) struct Paced<K, B> {
    body: B,
    inlet: Inlet,
    cache: Cache<K>,
    /// The span that began with the first piece after the last one.
    span: Option<Span>,
    /// Whether more came in the last one than lets it rest.
    is_busy: bool,
}

struct Span {
    /// Resolves after [`REST`], or when somebody needs each change at once.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    read: usize,
}

impl<K, B> Paced<K, B> {
    /// The body of an answer for that cache, and the inlet of its connection.
    pub(super) fn new(body: B, inlet: Inlet, cache: Cache<K>) -> Self {
        Self { body, inlet, cache, span: None, is_busy: false }
    }

    /// A piece of so many bytes is handed on.
    fn on_read(&mut self, bytes: usize) {
        self.cache.heard();
        if !self.cache.is_synced() || self.cache.is_attended() {
            return;
        }
        let span = self.span.get_or_insert_with(|| {
            if !self.is_busy {
                self.inlet.rest();
            }
            let (rest, mut attentive) = (sleep(REST), self.cache.shelf.attentive.0.subscribe());
            let over = Box::pin(async move {
                tokio::select! {
                    // Or nobody is left to ask.
                    _ = attentive.wait_for(|count| 0 < *count) => (),
                    () = rest => (),
                }
            });
            Span { over, read: 0 }
        });
        span.read += bytes;
        if GULP <= span.read {
            self.inlet.resume();
        }
    }
}

impl<K, B> Drop for Paced<K, B> {
    fn drop(&mut self) {
        self.inlet.resume();
    }
}

impl<K, B: Body + Unpin> Body for Paced<K, B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        if let Some(span) = &mut this.span
            && span.over.as_mut().poll(cx).is_ready()
        {
            this.is_busy = GULP <= span.read;
            this.span = None;
            this.inlet.resume();
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => this.on_read(frame.data_ref().map_or(0, Buf::remaining)),
            Some(Err(_)) | None => this.inlet.resume(),
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests;
