use tokio::time::Instant;

use super::*;

/// How long it rests after so many events.
#[expect(clippy::disallowed_methods, reason = "it is tokio's clock that is paused")]
async fn rested(pace: &mut Pace, events: usize) -> Duration {
    (0..events).for_each(|_| pace.on_event());
    let begun = Instant::now();
    pace.rest().await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_only_keeps_warm_rests_after_a_gulp_and_not_after_nothing_or_much() {
    let attentive = Attentive::default();
    let mut pace = attentive.pace();
    assert_eq!(rested(&mut pace, 0).await, Duration::ZERO);
    assert!(REST <= rested(&mut pace, 1).await);
    assert!(REST <= rested(&mut pace, GULP).await);
    assert_eq!(rested(&mut pace, GULP + 1).await, Duration::ZERO);
    assert!(
        REST <= rested(&mut pace, 1).await,
        "what was read before a rest does not count after it"
    );
}

#[tokio::test(start_paused = true)]
async fn while_somebody_is_attentive_there_is_no_rest() {
    let attentive = Attentive::default();
    let mut pace = attentive.pace();
    let (one, other) = (attentive.one(), attentive.one());
    assert_eq!(rested(&mut pace, 1).await, Duration::ZERO);
    drop(one);
    assert_eq!(rested(&mut pace, 1).await, Duration::ZERO);
    drop(other);
    assert!(REST <= rested(&mut pace, 1).await);
    attentive.for_good();
    assert_eq!(rested(&mut pace, 1).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn work_that_begins_cuts_a_rest_short() {
    let attentive = Attentive::default();
    let mut pace = attentive.pace();
    let soon = REST / 5;
    let work = async {
        tokio::time::sleep(soon).await;
        attentive.one()
    };
    let (rested, _work) = tokio::join!(rested(&mut pace, 1), work);
    assert!(soon <= rested && rested < REST, "{rested:?}");
}
