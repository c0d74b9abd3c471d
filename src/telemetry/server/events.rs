//! The event stream: one picture of the node for everybody who looks, taken while anybody does.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures::{Stream, StreamExt as _};
use prometheus::IntGauge;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::WatchStream;

use super::{Shared, routes};

/// Two pictures are never closer, however fast things change.
const PICTURE_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Events {
    latest: watch::Sender<Arc<str>>,
    /// Told when somebody comes to look.
    wanted: Notify,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { latest: watch::Sender::new(Arc::from("null")), wanted: Notify::new() }
    }
}

/// Takes pictures while there are readers; ends with the server.
pub(super) async fn publish(shared: Arc<Shared>) {
    loop {
        if shared.events.latest.receiver_count() == 0 {
            shared.events.wanted.notified().await;
        }
        if let Ok(status) = routes::status_json(&shared).await {
            // A slow reader finds the latest one: nothing queues up.
            shared.events.latest.send_replace(status.to_string().into());
        }
        tokio::time::sleep(PICTURE_AFTER).await;
        let rest = shared.config.picture_every.saturating_sub(PICTURE_AFTER);
        tokio::select! {
            biased;
            // Cancel safe: it keeps a permit for the next call.
            () = shared.events.wanted.notified() => {}
            // Cancel safe by the trait's word; a panic in it costs its wake-ups, not the stream.
            _ = routes::ask(Duration::MAX, shared.source.changed()), if shared.events.latest.receiver_count() > 0 => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// `GET /events`
pub(super) async fn stream(State(shared): State<Arc<Shared>>) -> Response {
    let Some(place) = Place::take(&shared) else {
        let body = "there are as many event streams as may be: poll /status\n";
        let headers = [(header::RETRY_AFTER, "5"), (header::CONTENT_TYPE, routes::TEXT)];
        return (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response();
    };
    let pictures = WatchStream::from_changes(shared.events.latest.subscribe());
    shared.events.wanted.notify_one();
    let stop = shared.stop.clone();
    let events = pictures
        .map(|status| Ok::<_, Infallible>(Event::default().event("status").data(&*status)))
        .take_until(async move { stop.cancelled().await });
    Sse::new(Placed { events: Box::pin(events), _place: place }).into_response()
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
