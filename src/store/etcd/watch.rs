//! Watches: one gRPC stream each, at one member.
//!
//! Events come out a whole revision at a time, in order, none older than requested, none twice. A watch
//! ends with an error when its stream ends, when calls switch away from its member, or when the revisions
//! it needs are compacted; its user then opens the next watch.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use etcd_client::{
    WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream, proto::PbEvent,
};
use futures::FutureExt as _;
use tonic::Code;

use super::{
    auth::Auth,
    calls::{Call, call},
    convert::{end, key_value},
    errors::{Verdict, classify, classify_answer},
    link::{Link, StreamOn},
    pool::Pool,
};
use crate::{
    engine::types::Revision,
    store::{Event, KeyValue, StoreError, Watch, WatchItem, WatchRequest},
};

/// Value of `mvccpb.Event.EventType` for a delete.
const DELETE: i32 = 1;

/// A running watch. See the module's docs.
pub(super) struct EtcdWatch {
    requests: WatchRequestSender,
    answers: WatchResponseStream,
    stream: StreamOn,
    endpoint: String,
    auth: Option<(Arc<Auth>, u64)>,
    assembly: Assembly,
}

/// Assembles whole revisions from the messages of etcd.
struct Assembly {
    /// First revision that was not delivered.
    wanted: Revision,
    /// Events of an answer that comes in parts.
    parts: Vec<PbEvent>,
    ready: VecDeque<WatchItem>,
}

/// Opens a watch and waits until etcd confirms that it runs.
pub(super) async fn open(
    pool: &Pool,
    request: &WatchRequest,
    how: Call,
) -> Result<EtcdWatch, StoreError> {
    let version = pool.auth().map(|auth| (auth.clone(), auth.version()));
    let options = {
        // Fragments: otherwise etcd would send all revisions of a catch-up as one message.
        let mut options = WatchOptions::new().with_start_revision(request.from.0).with_fragment();
        if let Some(end) = end(&request.range) {
            options = options.with_range(end);
        }
        if request.previous { options.with_prev_key() } else { options }
    };
    let (link, stream, first) = call(pool, how, |link| {
        let (mut client, options) = (link.watch(), options.clone());
        let key = request.range.from.clone();
        async move {
            let mut stream = client.watch(key, Some(options)).await?;
            let first = stream.message().await?;
            Ok((link, stream, first))
        }
    })
    .await?;
    let (requests, answers) = stream.split();
    let mut watch = EtcdWatch {
        requests,
        answers,
        endpoint: endpoint_of(pool, &link),
        stream: StreamOn::new(link),
        auth: version,
        assembly: Assembly::from(request.from),
    };
    match first {
        Some(first) if first.created() => {
            watch.take(first)?;
            Ok(watch)
        }
        Some(_) => Err(watch.broken("it did not begin with what etcd begins with")),
        None => Err(watch.broken("it ended at once")),
    }
}

fn endpoint_of(pool: &Pool, link: &Arc<Link>) -> String {
    let member = (0..pool.len()).find(|&member| Arc::ptr_eq(&pool.link(member), link));
    pool.endpoint(member.unwrap_or_else(|| pool.current())).to_owned()
}

impl EtcdWatch {
    /// Processes an answer of etcd.
    fn take(&mut self, answer: WatchResponse) -> Result<(), StoreError> {
        if answer.canceled() || answer.compact_revision() != 0 {
            return Err(self.cancelled(&answer));
        }
        if answer.created() {
            return Ok(());
        }
        let revision = Revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
        if !answer.0.events.is_empty() {
            self.stream.link().heard();
        }
        self.assembly.add(revision, answer.0.events, answer.0.fragment);
        Ok(())
    }

    /// Error for a watch that etcd ended.
    fn cancelled(&self, answer: &WatchResponse) -> StoreError {
        let reason = answer.cancel_reason();
        let oldest = Revision(answer.compact_revision());
        if oldest.0 != 0 {
            return StoreError::Compacted { asked: self.assembly.wanted, oldest };
        }
        match classify_answer(Code::Unknown, reason) {
            Verdict::Compacted => StoreError::Compacted { asked: self.assembly.wanted, oldest },
            Verdict::Denied(message) => {
                StoreError::Denied { call: "watch", endpoint: self.endpoint.clone(), message }
            }
            Verdict::Reauthenticate(text) => {
                if let Some((auth, version)) = &self.auth {
                    auth.want_after(*version);
                }
                self.broken(&text)
            }
            _ if reason.is_empty() => self.broken("etcd cancelled it"),
            _ => self.broken(reason),
        }
    }

    fn broken(&self, message: &str) -> StoreError {
        StoreError::Broken { endpoint: self.endpoint.clone(), message: message.to_owned() }
    }
}

impl Assembly {
    fn from(wanted: Revision) -> Self {
        Self { wanted, parts: Vec::new(), ready: VecDeque::new() }
    }

    /// Adds an answer; `more` means that its last revision continues in the next answer.
    fn add(&mut self, header: Revision, events: Vec<PbEvent>, more: bool) {
        if events.is_empty() && self.parts.is_empty() && !more {
            self.ready.push_back(WatchItem::Progress { revision: header });
            return;
        }
        self.parts.extend(events);
        if more {
            return;
        }
        for event in std::mem::take(&mut self.parts) {
            self.deliver(event);
        }
        if let Some(WatchItem::Events { revision, .. }) = self.ready.back() {
            self.wanted = Revision(revision.0 + 1);
        }
    }

    /// Adds an event to its revision; drops an event that is older than `wanted`.
    fn deliver(&mut self, event: PbEvent) {
        let Some(kv) = event.kv else { return };
        let revision = Revision(kv.mod_revision);
        if revision < self.wanted {
            // A member that lags can send events that another member delivered before (etcd#20221).
            return;
        }
        let deleted = event.r#type == DELETE;
        let kv = if deleted { tombstone(kv.key, revision) } else { key_value(kv) };
        let event = Event { kv, deleted, previous: event.prev_kv.map(key_value) };
        match self.ready.back_mut() {
            Some(WatchItem::Events { revision: last, events }) if *last == revision => {
                events.push(event);
            }
            _ => self.ready.push_back(WatchItem::Events { revision, events: vec![event] }),
        }
    }
}

fn tombstone(key: Vec<u8>, modified: Revision) -> KeyValue {
    KeyValue { key, value: Vec::new(), created: Revision(0), modified, version: 0, lease: None }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(item) = self.assembly.ready.pop_front() {
                return Ok(item);
            }
            let answer = tokio::select! {
                biased;
                // Cancel safe: the stream retains unread answers.
                answer = self.answers.message() => answer,
                // Cancel safe: a retired link stays retired.
                () = self.stream.link().retired() => {
                    return Err(self.broken("its member is left for another, or connected again"));
                }
            };
            match answer {
                Ok(Some(answer)) => self.take(answer)?,
                Ok(None) => return Err(self.broken("the stream ended")),
                Err(error) => return Err(self.broken(&classify(&error).into_text())),
            }
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        // The request is only queued here. A full queue means that nothing has been sent for a hundred
        // requests.
        match self.requests.request_progress().now_or_never() {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.broken("the stream ended")),
            None => Err(self.broken("its requests are not taken any more")),
        }
    }
}

#[cfg(test)]
mod tests;
