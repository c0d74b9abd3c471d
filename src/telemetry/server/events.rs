//! The event stream: one picture of the node for everybody who looks, taken while anybody does, and what changes
//! of it.
//!
//! A stream begins with the whole picture (`event: status`). Then come changes ([`super::change`]; `event: change`),
//! `{}` if there is none, so that a reader knows that the line is open. A reader that was too slow for them gets a
//! whole picture again.

use std::{
    convert::Infallible,
    io::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use futures::{Stream, StreamExt as _};
use prometheus::IntGauge;
use serde_json::Value;
use tokio::sync::{Notify, broadcast};

use super::{Shared, change, routes};
use crate::{clock, engine::BootTime};

/// Two pictures are never closer, however fast things change.
const PICTURE_AFTER: Duration = Duration::from_millis(100);
/// A reader that is so many changes behind gets a whole picture instead.
const CHANGES_KEPT: usize = 16;
/// Changes of single checks are held back where they exceed this many bytes a second, for one reader. The rest of the
/// picture is small.
const BYTES_PER_SECOND: u32 = 32_000;
/// Single checks are held back for no longer than this: a check that is down must show.
const HELD_BACK_MOST: Duration = Duration::from_secs(10);

pub(super) struct Events {
    /// The picture that was sent last: every reader that has had all changes has it.
    latest: Mutex<Arc<Value>>,
    changes: broadcast::Sender<Bytes>,
    /// Told when somebody comes to look.
    wanted: Notify,
}

impl Events {
    pub(super) fn new() -> Self {
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        Self { latest: Mutex::default(), changes, wanted: Notify::new() }
    }

    fn latest(&self) -> MutexGuard<'_, Arc<Value>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what makes the latest picture into this one; returns how many bytes that took.
    fn send(&self, picture: Value) -> usize {
        let before = Arc::clone(&self.latest());
        let text = event("change", &change::between(&before, &picture));
        let bytes = text.len();
        // Both under the lock: a reader that comes now has the one picture or the other, and all changes from it.
        let mut latest = self.latest();
        *latest = Arc::new(picture);
        // An error: there is no reader.
        let _ = self.changes.send(text);
        bytes
    }

    /// The whole picture, and the changes from it on.
    fn subscribe(&self) -> (Bytes, broadcast::Receiver<Bytes>) {
        let (picture, changes) = {
            let latest = self.latest();
            (Arc::clone(&latest), self.changes.subscribe())
        };
        (event("status", &picture), changes)
    }
}

fn event(name: &str, data: &Value) -> Bytes {
    // JSON text has no line breaks.
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Takes pictures while there are readers; ends with the server.
pub(super) async fn publish(shared: Arc<Shared>) {
    // Until then single checks are held back.
    let mut checks_at = BootTime::default();
    loop {
        let events = &shared.events;
        let was_idle = events.changes.receiver_count() == 0;
        if was_idle {
            events.wanted.notified().await;
        }
        if let Ok(mut picture) = routes::status_json(&shared).await {
            let now = clock::boot_now();
            if now < checks_at {
                hold_back_checks(&mut picture, &events.latest());
            }
            let bytes = events.send(picture);
            // What changed while nobody looked is sent to nobody: new readers get the whole picture.
            if !was_idle {
                checks_at = checks_at.max(now) + held_back_for(bytes);
            }
        }
        tokio::time::sleep(PICTURE_AFTER).await;
        let rest = shared.config.picture_every.saturating_sub(PICTURE_AFTER);
        tokio::select! {
            biased;
            // Cancel safe: it keeps a permit for the next call.
            () = shared.events.wanted.notified() => {}
            // Cancel safe by the trait's word; a panic in it costs its wake-ups, not the stream.
            _ = routes::ask(Duration::MAX, shared.source.changed()), if shared.events.changes.receiver_count() > 0 => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// How long single checks are held back after a change of so many bytes.
fn held_back_for(bytes: usize) -> Duration {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * bytes / BYTES_PER_SECOND).min(HELD_BACK_MOST)
}

/// Leaves single checks as they were sent last.
fn hold_back_checks(picture: &mut Value, sent: &Value) {
    const CHECKS: &str = "/checks/checks";
    if let (Some(now), Some(before)) = (picture.pointer_mut(CHECKS), sent.pointer(CHECKS)) {
        *now = before.clone();
    }
}

/// `GET /events`
pub(super) async fn stream(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let Some(place) = Place::take(&shared) else {
        let body = "there are as many event streams as may be: poll /status\n";
        let headers = [(header::RETRY_AFTER, "5"), (header::CONTENT_TYPE, routes::TEXT)];
        return (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response();
    };
    // A picture that was taken for an earlier reader may be old: the first one is awaited.
    let (_, changes) = shared.events.subscribe();
    shared.events.wanted.notify_one();
    let stop = shared.stop.clone();
    let reader = Reader { shared: Arc::clone(&shared), changes, begun: false };
    let events = futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((event, reader))
    });
    let events = Box::pin(events.take_until(async move { stop.cancelled().await }));
    let mut packed = takes_gzip(&headers).then(Packed::new);
    let events = events.map(move |event| {
        let bytes = match &mut packed {
            Some(packed) => packed.pack(&event),
            None => event,
        };
        Ok::<_, Infallible>(bytes)
    });
    let body = Body::from_stream(Placed { events: Box::pin(events), _place: place });
    let mut response = body.into_response();
    let of_response = response.headers_mut();
    of_response.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    of_response.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // nginx and its like hold an answer back until it is complete unless told otherwise.
    of_response.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if takes_gzip(&headers) {
        of_response.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether a reader says that it takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok());
    accepted.flat_map(|it| it.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = quality.trim().strip_prefix("q=").and_then(|it| it.parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && quality != Some(0.0)
    })
}

/// One reader of the changes.
struct Reader {
    shared: Arc<Shared>,
    changes: broadcast::Receiver<Bytes>,
    begun: bool,
}

impl Reader {
    /// The next event; none when the server ends.
    async fn next(&mut self) -> Option<Bytes> {
        match self.changes.recv().await {
            Ok(change) if self.begun => Some(change),
            Err(broadcast::error::RecvError::Closed) => None,
            // The first, or it was too slow.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                self.begun = true;
                let whole;
                (whole, self.changes) = self.shared.events.subscribe();
                Some(whole)
            }
        }
    }
}

/// A gzip stream that can be read after each event.
struct Packed(GzEncoder<Vec<u8>>);

impl Packed {
    fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    fn pack(&mut self, event: &[u8]) -> Bytes {
        let packed = self.0.write_all(event).and_then(|()| self.0.flush());
        packed.expect("writing to memory cannot fail");
        std::mem::take(self.0.get_mut()).into()
    }
}

/// A stream's place among those that may be; given back when the stream is dropped.
struct Place(IntGauge);

impl Place {
    fn take(shared: &Shared) -> Option<Self> {
        let streams = &shared.metrics.streams;
        // Counted first: two that come at once cannot both take the last place.
        streams.inc();
        let place = Self(streams.clone());
        (usize::try_from(streams.get()).unwrap_or(0) <= shared.config.max_streams).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A stream that holds its place.
struct Placed<S> {
    events: Pin<Box<S>>,
    _place: Place,
}

impl<S: Stream> Stream for Placed<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.events.as_mut().poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_held_back_for_as_long_as_their_bytes_cost_and_ten_seconds_at_most() {
        let spans = [0, 16_000, 320_000, 320_001, usize::MAX].map(held_back_for);
        assert_eq!(spans.map(|it| it.as_millis()), [0, 500, 10_000, 10_000, 10_000]);
    }
}
