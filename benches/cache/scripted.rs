//! An API that serves 100,000 config maps, and forwards all other requests.

use std::{fmt::Write as _, sync::Arc};

use bellwether::k8s::{
    kube::{Client, client::Body},
    shard::fnv1a,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use tower::{BoxError, service_fn};

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// The config maps of the API, as JSON.
#[derive(Clone)]
pub(crate) struct Objects {
    all: Arc<Vec<Bytes>>,
    /// Whether the API filters lists and watches by shard (KEP-5866).
    filters: bool,
}

/// The UID of an object.
fn uid(number: usize) -> String {
    format!("{number:08x}-5b4e-4c0e-9d0f-3f6f2a9d1c77")
}

/// The ranges of hashes in a query's selector: the first hash of each range, and the first hash after it.
fn ranges(query: &str) -> Vec<(u128, u128)> {
    let selector = query.split('&').find_map(|it| it.strip_prefix("shardSelector="));
    let words = selector.unwrap_or_default().split("0x").skip(1);
    let hashes: Vec<u128> = words
        .map(|word| word.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default())
        .map(|digits| u128::from_str_radix(digits, 16).unwrap())
        .collect();
    hashes.chunks(2).map(|range| (range[0], range[1])).collect()
}

/// A small config map as clusters have them: labels, an owner, managed fields, two values.
fn object(number: usize) -> Bytes {
    let mut text = String::new();
    let _ = write!(
        text,
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"website-{number:08}","namespace":"production","uid":"{uid}","resourceVersion":"{version}","creationTimestamp":"2026-01-02T03:04:05Z","labels":{{"app.kubernetes.io/name":"website","app.kubernetes.io/part-of":"shop","app.kubernetes.io/managed-by":"websites"}},"annotations":{{"bellwether.dev/fence":"17"}},"ownerReferences":[{{"apiVersion":"example.com/v1","kind":"Website","name":"website-{number:08}","uid":"{number:08x}-aaaa-4c0e-9d0f-3f6f2a9d1c77","controller":true}}],"managedFields":[{{"manager":"websites","operation":"Apply","apiVersion":"v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{{"f:data":{{"f:index.html":{{}},"f:host":{{}}}},"f:metadata":{{"f:labels":{{"f:app.kubernetes.io/name":{{}}}}}}}}}}]}},"data":{{"host":"website-{number:08}.example.com","index.html":"<h1>hello</h1>"}}}}"#,
        uid = uid(number),
        version = 1000 + number,
    );
    text.into()
}

impl Objects {
    pub(crate) fn new(count: usize) -> Self {
        Self { all: Arc::new((0..count).map(object).collect()), filters: false }
    }

    /// The same objects, from an API that filters by shard.
    pub(crate) fn filtered(self) -> Self {
        Self { filters: true, ..self }
    }

    /// A client of an API with these objects; all other requests go to `other`, or get "not found".
    pub(crate) fn client(&self, other: Option<Client>) -> Client {
        let objects = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (objects, other) = (objects.clone(), other.clone());
            async move {
                if request.uri().path() == "/api/v1/configmaps" {
                    return Ok::<_, BoxError>(
                        objects.answer(request.uri().query().unwrap_or_default()),
                    );
                }
                match other {
                    Some(other) => {
                        let answer = other.send(request).await?;
                        Ok(answer.map(|body| body.map_err(BoxError::from).boxed_unsync()))
                    }
                    None => Ok(not_found()),
                }
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, query: &str) -> Answer {
        let ranges = if self.filters { ranges(query) } else { Vec::new() };
        if !query.contains("watch=true") {
            let some = self.all.first().map(|it| String::from_utf8_lossy(it)).unwrap_or_default();
            let info = if ranges.is_empty() { "" } else { r#","shardInfo":{"selector":"yes"}"# };
            let list = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMapList","metadata":{{"resourceVersion":"9000000"{info}}},"items":[{some}]}}"#
            );
            return whole(list.into_bytes());
        }
        let all = Arc::clone(&self.all);
        let initial = query.contains("sendInitialEvents=true");
        let count = if initial { all.len() } else { 0 };
        let is_picked = move |number: &usize| {
            let hash = u128::from(fnv1a(uid(*number).as_bytes()));
            ranges.is_empty() || ranges.iter().any(|(from, to)| (*from..*to).contains(&hash))
        };
        let added = stream::iter((0..count).filter(is_picked)).map(move |at| {
            let mut line = br#"{"type":"ADDED","object":"#.to_vec();
            line.extend_from_slice(&all[at]);
            line.extend_from_slice(b"}\n");
            line
        });
        let end: &[u8] = br#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"9000000","annotations":{"k8s.io/initial-events-end":"true"}}}}
"#;
        let lines =
            added.chain(stream::iter(initial.then(|| end.to_vec()))).chain(stream::pending());
        let frames = lines.map(|line| Ok::<_, BoxError>(Frame::data(Bytes::from(line))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn not_found() -> Answer {
    let status =
        br#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#;
    let mut answer = whole(status.to_vec());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

fn whole(text: Vec<u8>) -> Answer {
    Response::new(Body::from(text).map_err(BoxError::from).boxed_unsync())
}
