use super::*;

const FIRST: LeaseId = LeaseId(7);
const SECOND: LeaseId = LeaseId(8);

fn took(lease: LeaseId, revision: i64) -> OwnEffect {
    OwnEffect::Took { lease, revision: Revision(revision) }
}

fn put(value: &str) -> OwnWrite {
    OwnWrite::Put(value.into())
}

fn joined() -> OwnCalls {
    let mut keys = OwnCalls::default();
    keys.joined(FIRST);
    keys
}

/// Makes a call, writes in its turn, and ends it.
fn called(keys: &mut OwnCalls, write: OwnWrite, effect: Option<OwnEffect>) -> Next {
    let call = keys.call("k", write);
    assert_eq!(keys.turn(&call), Turn::Has);
    let next = effect.map_or(Next::Done, |effect| keys.note(&call, effect));
    keys.end(&call);
    next
}

/// Calls with the effect of each; `None` = the call took no effect.
type Calls<'a> = &'a [(OwnWrite, Option<OwnEffect>)];

/// Value that a new session puts back.
fn put_back(keys: &mut OwnCalls) -> Option<String> {
    keys.joined(SECOND);
    keys.missing(SECOND).pop()?;
    match keys.put_back("k", SECOND)?.write {
        OwnWrite::PutBack(value) => Some(String::from_utf8(value).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_for_one_key_take_turns_in_the_order_in_which_they_were_made() {
    let mut keys = joined();
    let first = keys.call("k", put("1"));
    let second = keys.call("k", put("2"));
    let given_up = keys.call("k", put("3"));
    let fourth = keys.call("k", OwnWrite::Delete);
    let other = keys.call("l", put("1"));
    let turns = |keys: &OwnCalls| [&first, &second, &fourth, &other].map(|call| keys.turn(call));
    assert_eq!(turns(&keys), [Turn::Has, Turn::Waits, Turn::Waits, Turn::Has]);
    keys.end(&given_up);
    assert_eq!(keys.end(&first).next, Some(second.number));
    assert_eq!(turns(&keys)[1..3], [Turn::Has, Turn::Waits]);
    assert_eq!(keys.end(&second).next, Some(fourth.number));
    assert_eq!(keys.turn(&fourth), Turn::Has);
}

#[test]
fn the_last_call_that_took_effect_or_may_have_is_what_comes_back() {
    let unknown = OwnEffect::Unknown { lease: FIRST };
    let cases: [(Calls<'_>, _); 7] = [
        (&[(put("1"), Some(took(FIRST, 10)))], Some("1")),
        (&[(put("1"), Some(took(FIRST, 10))), (put("2"), None)], Some("1")),
        (&[(put("1"), Some(took(FIRST, 10))), (put("2"), Some(unknown))], Some("2")),
        (&[(put("1"), Some(unknown)), (put("2"), Some(took(FIRST, 10)))], Some("2")),
        (&[(put("1"), Some(took(FIRST, 10))), (OwnWrite::Delete, Some(took(FIRST, 11)))], None),
        (&[(put("1"), Some(took(FIRST, 10))), (OwnWrite::Delete, Some(unknown))], None),
        (&[(put("1"), Some(took(FIRST, 10))), (OwnWrite::Delete, None)], Some("1")),
    ];
    for (calls, wanted) in cases {
        let mut keys = joined();
        for (write, effect) in calls {
            called(&mut keys, write.clone(), *effect);
        }
        assert_eq!(put_back(&mut keys).as_deref(), wanted, "{calls:?}");
    }
}

#[test]
fn an_answer_at_a_smaller_revision_counts() {
    let mut keys = joined();
    called(&mut keys, put("before the restore"), Some(took(FIRST, 100)));
    called(&mut keys, put("after it"), Some(took(FIRST, 60)));
    assert_eq!(keys.known("k", FIRST), Revision(60));
    assert_eq!(put_back(&mut keys).as_deref(), Some("after it"));
}

#[test]
fn what_was_written_under_a_lost_lease_is_written_again_under_the_present_one() {
    let mut keys = joined();
    called(&mut keys, put("1"), Some(took(FIRST, 10)));
    let late = keys.call("k", put("2"));
    keys.joined(SECOND);
    assert_eq!(keys.missing(SECOND), [""; 0], "its answer is waited for");
    assert_eq!(keys.note(&late, took(FIRST, 11)), Next::Again(SECOND));
    assert_eq!(keys.known("k", SECOND), Revision(0));
    // The caller gives up before it writes again, so the session puts the key.
    assert_eq!(keys.end(&late), Ended { next: None, missing: true });
    assert_eq!(put_back(&mut keys).as_deref(), Some("2"));
}

#[test]
fn what_is_put_back_takes_its_turn() {
    let mut keys = joined();
    called(&mut keys, put("1"), Some(took(FIRST, 10)));
    keys.joined(SECOND);
    let back = keys.put_back("k", SECOND).unwrap();
    assert_eq!(keys.put_back("k", SECOND), None);
    let call = keys.call("k", OwnWrite::Delete);
    assert_eq!(keys.turn(&call), Turn::Waits);
    assert_eq!(keys.note(&back, took(SECOND, 20)), Next::Done);
    assert_eq!(keys.end(&back), Ended { next: Some(call.number), missing: false });
    assert_eq!((keys.turn(&call), keys.known("k", SECOND)), (Turn::Has, Revision(20)));
    keys.note(&call, took(SECOND, 21));
    keys.end(&call);
    assert_eq!(keys.missing(SECOND), [""; 0]);
}

#[test]
fn a_put_back_whose_fate_is_open_is_put_back_again() {
    let mut keys = joined();
    called(&mut keys, put("1"), Some(took(FIRST, 10)));
    keys.joined(SECOND);
    let back = keys.put_back("k", SECOND).unwrap();
    keys.note(&back, OwnEffect::Unknown { lease: SECOND });
    assert!(!keys.is_settled());
    assert_eq!(keys.end(&back), Ended { next: None, missing: true });
    assert_eq!(keys.missing(SECOND), ["k"]);
}

#[test]
fn a_put_that_may_not_have_happened_is_not_forced_within_its_session() {
    let mut keys = joined();
    called(&mut keys, put("1"), Some(OwnEffect::Unknown { lease: FIRST }));
    assert!(keys.is_settled(), "it may as well be absent");
    // A key that had a value before a put with an unknown outcome must not be absent, so it is put again.
    called(&mut keys, put("2"), Some(took(FIRST, 10)));
    keys.joined(SECOND);
    called(&mut keys, put("3"), Some(OwnEffect::Unknown { lease: SECOND }));
    assert_eq!(keys.missing(SECOND), ["k"], "absent is neither 2 nor 3");
}

#[test]
fn nothing_from_before_the_node_left_counts_after_it() {
    let mut keys = joined();
    called(&mut keys, put("1"), Some(took(FIRST, 10)));
    let late = keys.call("k", put("2"));
    let waits = keys.call("k", put("3"));
    keys.left();
    keys.joined(SECOND);
    assert_eq!((keys.turn(&late), keys.turn(&waits)), (Turn::Over, Turn::Over));
    assert_eq!(keys.note(&late, took(FIRST, 11)), Next::Done);
    let new = keys.call("k", put("4"));
    assert_eq!(keys.turn(&new), Turn::Has);
    keys.end(&late);
    keys.end(&waits);
    assert_eq!(keys.turn(&new), Turn::Has);
    keys.end(&new);
    assert_eq!(put_back(&mut keys), None);
    assert!(keys.is_settled());
}
