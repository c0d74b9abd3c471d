use std::time::Duration;

use etcd_client::proto::PbKeyValue;

use super::*;
use crate::{
    engine::BootTime,
    store::{
        KeyRange,
        etcd::{
            calls::Repeat,
            fake::{FakeMember, Say},
            metrics::EtcdMetrics,
        },
    },
};

/// Event that changes `key` at `revision`.
fn event(key: &str, revision: i64) -> PbEvent {
    let kv = PbKeyValue { key: key.into(), mod_revision: revision, ..PbKeyValue::default() };
    PbEvent { kv: Some(kv), ..PbEvent::default() }
}

/// Items that are ready: `7:ab` for events of the keys a and b at revision 7, `p7` for progress.
fn ready(assembly: &mut Assembly) -> Vec<String> {
    let items = assembly.ready.drain(..);
    let texts = items.map(|item| match item {
        WatchItem::Progress { revision } => format!("p{revision}"),
        WatchItem::Events { revision, events } => {
            let keys = events.iter().map(|event| String::from_utf8_lossy(&event.kv.key));
            format!("{revision}:{}", keys.collect::<String>())
        }
    });
    texts.collect()
}

#[test]
fn one_answer_with_many_revisions_becomes_one_item_each() {
    let mut assembly = Assembly::from(Revision(5));
    let events = vec![event("a", 5), event("b", 5), event("a", 7)];
    assembly.add(Revision(9), events, false);
    assert_eq!(ready(&mut assembly), ["5:ab", "7:a"]);
}

#[test]
fn parts_are_held_until_the_last_one() {
    let mut assembly = Assembly::from(Revision(5));
    assembly.add(Revision(6), vec![event("a", 5), event("a", 6)], true);
    assert!(ready(&mut assembly).is_empty(), "revision 6 is not whole");
    assembly.add(Revision(6), Vec::new(), true);
    assembly.add(Revision(6), vec![event("b", 6)], false);
    assert_eq!(ready(&mut assembly), ["5:a", "6:ab"]);
}

#[test]
fn what_is_older_than_wanted_or_was_delivered_is_dropped() {
    let mut assembly = Assembly::from(Revision(5));
    assembly.add(Revision(6), vec![event("a", 4), event("a", 5)], false);
    assert_eq!(ready(&mut assembly), ["5:a"]);
    assembly.add(Revision(6), vec![event("a", 5), event("b", 6)], false);
    assert_eq!(ready(&mut assembly), ["6:b"]);
}

#[test]
fn an_answer_without_events_is_progress_and_wants_nothing_less() {
    let mut assembly = Assembly::from(Revision(5));
    assembly.add(Revision(8), Vec::new(), false);
    // Progress reports only what was delivered: revisions 5 to 8 had no event in this range.
    assembly.add(Revision(9), vec![event("a", 9)], false);
    assert_eq!(ready(&mut assembly), ["p8", "9:a"]);
}

#[test]
fn junk_in_an_event_is_passed_over() {
    let mut assembly = Assembly::from(Revision(5));
    let mut unknown = event("b", 5);
    unknown.r#type = 77;
    assembly.add(Revision(6), vec![PbEvent::default(), unknown], false);
    assert_eq!(ready(&mut assembly), ["5:b"], "an unknown kind of change is a change");
}

/// Encodes `bytes` as the field with that number in a protobuf message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

#[tokio::test]
async fn events_show_that_a_connection_delivers_and_progress_does_not() {
    let header = field(1, &[0x18, 7]);
    let created = [header.clone(), vec![0x18, 1]].concat();
    let event = field(2, &[field(1, b"k"), vec![0x18, 7]].concat());
    let answers = vec![created, header.clone(), [header, field(11, &event)].concat()];
    let member = FakeMember::start(move |_| Say::Messages(answers.clone())).await;
    let metrics = EtcdMetrics::unregistered();
    let pool = Pool::new(vec![member.endpoint()], None, None, b"k".to_vec(), metrics).unwrap();
    let request = WatchRequest { range: KeyRange::prefix("k"), from: Revision(5), previous: false };
    let how = Call {
        name: "watch",
        repeat: Repeat::Safe,
        asked: Revision(0),
        timeout: Duration::from_secs(60),
        suspect_after: Duration::from_secs(60),
        takes_space: false,
        proves_quorum: false,
        avoid: None,
    };
    let mut watch = open(&pool, &request, how).await.unwrap();
    // A member without a quorum sends progress too.
    assert_eq!(watch.next().await.unwrap(), WatchItem::Progress { revision: Revision(7) });
    assert_eq!(pool.link(0).heard_at(), BootTime::default());
    let item = watch.next().await.unwrap();
    assert!(matches!(item, WatchItem::Events { revision: Revision(7), .. }), "{item:?}");
    assert_ne!(pool.link(0).heard_at(), BootTime::default());
}
