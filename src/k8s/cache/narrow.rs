//! A cache that holds only the objects whose shards are held here.
//!
//! If the API server filters lists and watches by shard (KEP-5866), it sends only those objects. Otherwise it
//! sends all objects, and this module drops the others on arrival: that saves memory, but no traffic. Objects
//! are filtered here in both cases. Each watch first asks the server whether it filters: a list then echoes
//! the selector.
//!
//! When shards are gained, all held shards are listed again, because a new selector needs a new watch. Work
//! on a shard begins when its objects have been listed.

use std::{convert::Infallible, fmt::Debug, time::Duration};

use http::Request;
use kube::{
    Resource,
    runtime::watcher::{self, InitialListStrategy},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    held::{Call, HeldShards},
    source::{Retry, Source},
};
use crate::k8s::shard::shard_selector;

/// An empty cache is up to date, and its age is reset this often.
const HEARD_EVERY: Duration = Duration::from_secs(5);

/// Whether the API server filters objects by shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filters {
    Yes,
    No,
}

/// A list of which only the echo of the filter is read.
#[derive(Debug, Deserialize)]
struct Probed {
    metadata: ProbedMeta,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProbedMeta {
    shard_info: Option<ShardInfo>,
}

#[derive(Debug, Deserialize)]
struct ShardInfo {
    selector: String,
}

/// Feeds the cache with the objects of held shards for as long as it is polled.
pub(super) async fn run<K>(source: &Source<K>, held: &HeldShards) -> Infallible
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut config = source.config.clone();
    let mut said = None;
    // Shows at once, and not only when the first shard arrives, whether the objects can be listed at all.
    ask(source, None).await;
    loop {
        let shards = held.begin_watch();
        if shards.is_empty() {
            source.clear();
            held.on_listed();
            while tokio::time::timeout(HEARD_EVERY, held.called()).await.is_err() {
                source.cache.heard();
            }
            continue;
        }
        let selector = shard_selector(&shards, held.count());
        let filters = ask(source, Some(&selector)).await;
        if said.replace(filters) != Some(filters) {
            tracing::info!(
                kind = source.metrics.kind(),
                by = match filters {
                    Filters::Yes => "the API server",
                    Filters::No => "this node: the API server does not offer it",
                },
                "objects are filtered by shard"
            );
        }
        let sent = (filters == Filters::Yes).then_some(&*selector);
        let is_over = tokio::select! {
            biased;
            // Cancel safe: only waits. Objects that it has removed from the cache stay removed.
            () = outgrown(source, held, filters) => true,
            // If this arm is dropped, the cache stays as it is, and the next watch lists all objects.
            falls_back = source.watch((source.api)(sent), config.clone()) => !falls_back,
        };
        if !is_over {
            source.say_no_streaming();
            config.initial_list_strategy = InitialListStrategy::ListWatch;
        }
    }
}

/// Removes objects from the cache where that needs no new watch; resolves when a new watch is needed.
async fn outgrown<K>(source: &Source<K>, held: &HeldShards, filters: Filters)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    while held.called().await == Call::LetGo && filters == Filters::No && held.let_go() {
        source.cache.retain(|object| held.keeps(object));
        source.show();
    }
}

/// Whether the server filters by this selector. Retries until the server answers.
async fn ask<K>(source: &Source<K>, selector: Option<&str>) -> Filters
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let api = (source.api)(selector);
    let mut retry = Retry::default();
    loop {
        let path = format!("{}?limit=1", api.resource_url());
        let request = Request::get(path).body(Vec::new()).expect("the path of a kind is one");
        match api.clone().into_client().request::<Probed>(request).await {
            Ok(list) => {
                let echo = list.metadata.shard_info.filter(|it| !it.selector.is_empty());
                return if echo.is_some() { Filters::Yes } else { Filters::No };
            }
            // The server knows the parameter, but in another form.
            Err(kube::Error::Api(status)) if selector.is_some() && status.code == 400 => {
                return Filters::No;
            }
            Err(error) => source.on_error(&watcher::Error::InitialListFailed(error)),
        }
        tokio::time::sleep(retry.next().unwrap_or_default()).await;
    }
}
