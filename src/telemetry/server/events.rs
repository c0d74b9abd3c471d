//! The event stream: one picture of the node for all readers, taken while there are readers, and its
//! changes.
//!
//! A stream begins with the whole picture (`event: status`). Then changes follow ([`super::change`];
//! `event: change`). An empty change `{}` shows a reader that the connection is open. A reader that was too
//! slow for the changes gets a whole picture again.

use std::{
    convert::Infallible,
    io::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::{Notify, broadcast};

use super::{Shared, change, routes};
use crate::{clock, engine::BootTime, metrics::Counted};

/// Shortest time between two pictures, however fast the node changes.
const PICTURE_AFTER: Duration = Duration::from_millis(100);
/// A reader that is more changes behind than this gets a whole picture instead.
const CHANGES_KEPT: usize = 16;
/// Changes of single checks are delayed where they exceed this many bytes per second for one reader. The
/// rest of the picture is small.
const BYTES_PER_SECOND: u32 = 32_000;
/// Longest delay of single checks: a check that is down must show.
const HELD_BACK_MOST: Duration = Duration::from_secs(10);

pub(super) struct Events {
    /// Picture that was sent last: every reader that has received all changes has it.
    latest: Mutex<Arc<Value>>,
    changes: broadcast::Sender<Bytes>,
    /// Notified when a reader subscribes.
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

    /// Sends the change from the latest picture to this one; returns its size in bytes.
    fn send(&self, picture: Value) -> usize {
        let before = Arc::clone(&self.latest());
        let text = event("change", &change::between(&before, &picture));
        let bytes = text.len();
        // Both happen under the lock: a reader that subscribes now gets the old or the new picture, and all
        // changes after it.
        let mut latest = self.latest();
        *latest = Arc::new(picture);
        // An error means that there is no reader.
        let _ = self.changes.send(text);
        bytes
    }

    /// Returns the whole picture, and a receiver of the changes after it.
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
    // Time until which single checks are delayed.
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
            // Changes from a time without readers reach no reader: new readers get the whole picture.
            if !was_idle {
                checks_at = checks_at.max(now) + held_back_for(bytes);
            }
        }
        tokio::time::sleep(PICTURE_AFTER).await;
        let rest = shared.config.picture_every.saturating_sub(PICTURE_AFTER);
        tokio::select! {
            biased;
            // Cancel safe: the `Notify` keeps a permit for the next call.
            () = shared.events.wanted.notified() => {}
            // Cancel safe as the trait requires; a panic loses only the wake-up, not the stream.
            _ = routes::ask(Duration::MAX, shared.source.changed()), if shared.events.changes.receiver_count() > 0 => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Delay of single checks after a change of this many bytes.
fn held_back_for(bytes: usize) -> Duration {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * bytes / BYTES_PER_SECOND).min(HELD_BACK_MOST)
}

/// Replaces the single checks by those that were sent last.
fn hold_back_checks(picture: &mut Value, sent: &Value) {
    const CHECKS: &str = "/checks/checks";
    if let (Some(now), Some(before)) = (picture.pointer_mut(CHECKS), sent.pointer(CHECKS)) {
        *now = before.clone();
    }
}

/// Handles `GET /events` with a stream.
pub(super) async fn stream(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let streams = &shared.metrics.streams;
    // Counts first: two streams that begin at the same time cannot both take the last place.
    let counted = Counted::new(streams);
    if usize::try_from(streams.get()).unwrap_or(0) > shared.config.max_streams {
        let body = "there are as many event streams as may be: poll /status\n";
        let headers = [(header::RETRY_AFTER, "5"), (header::CONTENT_TYPE, routes::TEXT)];
        return (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response();
    }
    // A picture that was taken for an earlier reader may be old: this reader waits for the next one.
    let (_, changes) = shared.events.subscribe();
    shared.events.wanted.notify_one();
    let stop = shared.stop.clone();
    let reader = Reader { shared: Arc::clone(&shared), changes, begun: false, _counted: counted };
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
    let body = Body::from_stream(events);
    let mut response = body.into_response();
    let of_response = response.headers_mut();
    of_response.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    of_response.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // nginx and similar proxies buffer an answer until it is complete, unless this header disables that.
    of_response.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if takes_gzip(&headers) {
        of_response.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether the reader's headers accept gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok());
    accepted.flat_map(|it| it.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = quality.trim().strip_prefix("q=").and_then(|it| it.parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && quality != Some(0.0)
    })
}

/// Reader of the changes of one stream.
struct Reader {
    shared: Arc<Shared>,
    changes: broadcast::Receiver<Bytes>,
    begun: bool,
    _counted: Counted,
}

impl Reader {
    /// Waits for the next event; `None` when the server ends.
    async fn next(&mut self) -> Option<Bytes> {
        match self.changes.recv().await {
            Ok(change) if self.begun => Some(change),
            Err(broadcast::error::RecvError::Closed) => None,
            // The first event, or the reader was too slow.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                self.begun = true;
                let whole;
                (whole, self.changes) = self.shared.events.subscribe();
                Some(whole)
            }
        }
    }
}

/// Gzip stream that is flushed after each event.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_held_back_for_as_long_as_their_bytes_cost_and_ten_seconds_at_most() {
        let spans = [0, 16_000, 320_000, 320_001, usize::MAX].map(held_back_for);
        assert_eq!(spans.map(|it| it.as_millis()), [0, 500, 10_000, 10_000, 10_000]);
    }
}
