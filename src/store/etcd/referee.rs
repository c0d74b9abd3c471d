//! Supervision of the members in the background: decides on suspicions, guards open watches, probes members
//! that failed, measures their latency, and follows the TLS files.
//!
//! The most important rule: calls leave a member only for another one that answers while it does not. So a
//! stall of the whole store (a slow disk, an election) changes nothing.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};

use super::{
    link::Link,
    metrics::Switch,
    pool::{Before, Pool},
    tls::Watched,
};
use crate::clock;

/// Interval of the checks of failed members, and of members with watches that do not prove themselves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A member that serves a watch must prove itself after this much silence. The value is half above the
/// default period of a leader's beats: the watch of a cluster that has a leader needs no probes.
const GUARD_AFTER: Duration = Duration::from_millis(300);

/// Timeout of a probe for a survey or of a member that failed.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// Answers that come this much later than the first one count as simultaneous.
const GRACE: Duration = Duration::from_millis(20);

/// A member is too slow if it takes this many times as long as the fastest one, and at least
/// [`SLOW_BY`] longer, in [`SLOW_TIMES`] surveys in a row.
const SLOW_FACTOR: u32 = 3;
const SLOW_BY: Duration = Duration::from_millis(5);
const SLOW_TIMES: u32 = 3;

/// Investigates every suspicion, and suspects members whose watches are silent, which no call would detect.
///
/// # Cancel safety
///
/// Cancel safe: a suspicion under investigation is forgotten.
pub(super) async fn decide(pool: Arc<Pool>, suspect_after: Duration) -> Infallible {
    loop {
        tokio::select! {
            biased;
            // Cancel safe: a permit that was not taken stays.
            () = pool.suspicion.notified() => {}
            // Cancel safe: only time passes.
            () = tokio::time::sleep(until_silent(&pool, suspect_after)) => {
                guard_watches(&pool, suspect_after).await;
            }
        }
        while let Some(member) = pool.next_suspect() {
            investigate(&pool, member, suspect_after).await;
        }
    }
}

/// Probes members that serve a watch and have not proven for a while that they are in a quorum.
async fn guard_watches(pool: &Pool, suspect_after: Duration) {
    let after = suspect_after.max(GUARD_AFTER);
    let silent = watched(pool).filter(|&member| after <= pool.unproven_for(member));
    let probes = silent.map(|member| async move {
        let link = pool.link(member);
        if pool.probe(member, &link, suspect_after).await.is_err() {
            pool.suspect(member);
        }
    });
    join_all(probes).await;
}

fn watched(pool: &Pool) -> impl Iterator<Item = usize> + '_ {
    (0..pool.len()).filter(|&member| pool.link(member).streams() > 0)
}

/// Time until a member that serves a watch may have been silent for too long.
fn until_silent(pool: &Pool, suspect_after: Duration) -> Duration {
    let after = suspect_after.max(GUARD_AFTER);
    let left = watched(pool).map(|member| after.saturating_sub(pool.unproven_for(member)));
    // A member whose last probe failed is probed again, but not at once.
    left.min().filter(|left| !left.is_zero()).unwrap_or(LOOK_EVERY)
}

/// Finds out whether only this member is silent. Returns when the member answers, or when another member or
/// a new connection has answered and replaced it.
async fn investigate(pool: &Pool, suspect: usize, suspect_after: Duration) {
    if pool.silent_for(suspect) < suspect_after {
        return;
    }
    let mark = pool.last_answer(suspect);
    let heard = pool.link(suspect).heard_at();
    let mut pause = LOOK_EVERY;
    loop {
        let winner = first_answer(pool, suspect, suspect_after * 2).await;
        if pool.last_answer(suspect) != mark {
            return;
        }
        // A connection that delivers does not hang: this process is busy with the delivered events.
        if winner.as_ref().is_some_and(|winner| winner.member == suspect)
            && heard != pool.link(suspect).heard_at()
        {
            return;
        }
        if let Some(winner) = winner {
            settle(pool, suspect, &winner);
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PROBE_WITHIN);
    }
}

/// Member that answered a probe, the link that it answered on, and the latency.
struct Winner {
    member: usize,
    link: Arc<Link>,
    took: Duration,
}

/// Acts on the outcome: the suspect's connection hangs, or the suspect itself does.
fn settle(pool: &Pool, suspect: usize, winner: &Winner) {
    if winner.member == suspect {
        tracing::warn!(endpoint = pool.endpoint(suspect), "connection to etcd hangs, reconnecting");
        pool.install_proven(suspect, &winner.link, winner.took, Before::Abandoned);
        return;
    }
    pool.switch(suspect, winner.member, Switch::Silent);
    pool.failed(suspect, "it does not answer while another member does");
    if let Some(fresh) = pool.fresh_link(suspect) {
        pool.install(suspect, fresh, Before::Abandoned);
    }
}

/// Probes the other members, and the suspect on a new connection, and returns the first to answer. `None`
/// if none answers, or if the suspect's old connection answers at about the same time: then the stall
/// affected all members and has just ended.
async fn first_answer(pool: &Pool, suspect: usize, within: Duration) -> Option<Winner> {
    let old = pool.link(suspect);
    let mut probes = FuturesUnordered::new();
    for member in 0..pool.len() {
        let link =
            if member == suspect { pool.fresh_link(member) } else { Some(pool.link(member)) };
        if let Some(link) = link {
            probes.push(async move {
                let took = pool.probe(member, &link, within).await.ok()?;
                Some(Winner { member, link, took })
            });
        }
    }
    let old_answers = async {
        if pool.probe(suspect, &old, within).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let first = async {
        while let Some(answer) = probes.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    };
    tokio::pin!(old_answers);
    let first = tokio::select! {
        biased;
        // Cancel safe: a probe changes nothing.
        () = &mut old_answers => return None,
        // Cancel safe: as above.
        first = first => first?,
    };
    match tokio::time::timeout(GRACE, old_answers).await {
        Ok(()) => None,
        Err(_) => Some(first),
    }
}

/// Probes members that failed, by new connections, until they answer.
///
/// # Cancel safety
///
/// Cancel safe: a probe changes nothing.
pub(super) async fn recover(pool: Arc<Pool>) -> Infallible {
    loop {
        if (0..pool.len()).all(|member| pool.is_up(member)) {
            // Cancel safe: a permit that was not taken stays.
            pool.fallen.notified().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let due = (0..pool.len()).filter(|&member| pool.is_due(member));
        let probes = due.map(|member| {
            let pool = &pool;
            async move {
                let Some(link) = pool.fresh_link(member) else { return };
                let answer = pool.probe(member, &link, PROBE_WITHIN).await;
                if pool.is_up(member) {
                    // Calls have found the member up meanwhile, on the link that is in use.
                    return;
                }
                match answer {
                    Ok(took) => pool.install_proven(member, &link, took, Before::Abandoned),
                    Err(verdict) => pool.failed(member, &verdict.into_text()),
                }
            }
        });
        join_all(probes).await;
    }
}

/// Checks for alarms at intervals, measures the members, and switches away from a member that is much
/// slower than another.
///
/// # Cancel safety
///
/// Cancel safe: only the count of slow surveys is lost.
pub(super) async fn survey(pool: Arc<Pool>, every: Duration) -> Infallible {
    let mut slow = 0;
    loop {
        tokio::time::sleep(every).await;
        look_for_alarms(&pool).await;
        if pool.len() == 1 {
            continue;
        }
        measure(&pool).await;
        slow = match faster_than_current(&pool) {
            Some(fastest) if slow + 1 >= SLOW_TIMES => {
                pool.switch(pool.current(), fastest, Switch::Slow);
                0
            }
            Some(_) => slow + 1,
            None => 0,
        };
    }
}

/// Asks the current member for etcd's alarms: a node that writes nothing learns only from them that etcd is
/// full.
async fn look_for_alarms(pool: &Pool) {
    let member = pool.current();
    let mut maintenance = pool.link(member).maintenance();
    let asking = tokio::time::timeout(PROBE_WITHIN, maintenance.status());
    if let Ok(Ok(status)) = asking.await {
        let now = clock::boot_now();
        pool.complaints().on_alarms(pool.endpoint(member), status.errors(), now);
    }
}

/// Probes all members at once and switches to the first to answer. Gives up after [`PROBE_WITHIN`].
pub(super) async fn first_look(pool: &Pool) {
    let mut probes: FuturesUnordered<_> = (0..pool.len())
        .map(|member| async move {
            let answered = pool.probe(member, &pool.link(member), PROBE_WITHIN).await.is_ok();
            answered.then_some(member)
        })
        .collect();
    while let Some(answered) = probes.next().await {
        if let Some(member) = answered {
            pool.switch(pool.current(), member, Switch::Slow);
            return;
        }
    }
}

/// Probes every member that is up.
async fn measure(pool: &Pool) {
    let up = (0..pool.len()).filter(|&member| pool.is_up(member));
    let probes = up.map(|member| async move {
        let link = pool.link(member);
        match pool.probe(member, &link, PROBE_WITHIN).await {
            Ok(_) => {}
            // Calls judge the current member; for the other members this is the only probe.
            Err(verdict) if member != pool.current() => pool.failed(member, &verdict.into_text()),
            Err(_) => pool.suspect(member),
        }
    });
    join_all(probes).await;
}

fn faster_than_current(pool: &Pool) -> Option<usize> {
    let current = pool.latency(pool.current())?;
    let (fastest, latency) = (0..pool.len())
        .filter(|&member| pool.is_up(member))
        .filter_map(|member| Some((member, pool.latency(member)?)))
        .min_by_key(|&(_, latency)| latency)?;
    (current > latency * SLOW_FACTOR && current > latency + SLOW_BY).then_some(fastest)
}

/// Reads the TLS files at intervals; when they change, connects again with the new files.
///
/// # Cancel safety
///
/// Cancel safe: members that were not reached yet keep their connections.
pub(super) async fn follow_files(
    pool: Arc<Pool>,
    mut files: Watched,
    every: Duration,
) -> Infallible {
    // An alert cannot use a series that does not exist, and a counter whose first sample is 1 shows no increase.
    for result in ["used", "unusable"] {
        pool.metrics().certificates.with_label_values(&[result]);
    }
    let mut complained = false;
    loop {
        tokio::time::sleep(every).await;
        match files.changed() {
            Ok(None) => complained = false,
            Ok(Some(material)) => {
                tracing::info!("TLS files changed, reconnecting to etcd");
                pool.metrics().certificates.with_label_values(&["used"]).inc();
                pool.set_material(material);
                join_all((0..pool.len()).map(|member| reconnect(&pool, member))).await;
                complained = false;
            }
            Err(error) if complained => tracing::debug!(%error, "TLS files cannot be used"),
            Err(error) => {
                pool.metrics().certificates.with_label_values(&["unusable"]).inc();
                tracing::warn!(%error, "TLS files changed and cannot be used, keeping the old ones");
                complained = true;
            }
        }
    }
}

/// Makes a new connection and, if it answers, retires the old one.
async fn reconnect(pool: &Pool, member: usize) {
    let Some(link) = pool.fresh_link(member) else { return };
    match pool.probe(member, &link, PROBE_WITHIN).await {
        Ok(took) => pool.install_proven(member, &link, took, Before::Retired),
        // The old connection may continue to serve; if it breaks, later ones are made with the new files.
        Err(verdict) => pool.note_problem(member, &verdict.into_text()),
    }
}

#[cfg(test)]
mod tests;
