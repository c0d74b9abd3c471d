//! Attacks by an operator, who deletes or overwrites keys, or revokes leases.

use super::*;

#[test]
fn the_record_is_deleted_by_hand() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.cut_off(world.cast[0]);
                let record = world.depot.keys.record();
                world.delete(&record);
            })
        },
        ANOTHER_LEADS,
    ];
    attack(SCRIPT, &[around(Broken::AbsentRecordNotWaitedFor)], plain);
}

#[test]
fn the_leaders_candidate_key_is_deleted_while_it_is_cut_off() {
    const SCRIPT: &[Move] =
        &[|world| world.opening(|world| world.vanishes(world.cast[0])), ANOTHER_LEADS];
    attack(SCRIPT, &[around(Broken::NoWaitAfterUncleanEnd)], plain);
}

#[test]
fn a_lease_is_revoked_early_while_a_deposed_leader_of_the_store_answers_keepalives() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                let lease = world.lease(world.cast[1]);
                world.only_reaches_a_deposed_leader(world.cast[1]);
                world.revoke(lease);
            })
        },
        ANOTHER_ACTS,
    ];
    let rules =
        [around(Broken::ShardAuthorityFromKeepalive), around(Broken::VanishedOwnerFreedAtOnce)];
    attack(SCRIPT, &rules, plain);
}

#[test]
fn an_operator_overwrites_a_held_key() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                let lease = world.lease(world.cast[1]);
                world.stall_watch(world.cast[1]);
                let key = world.depot.keys.held(lease);
                world.overwrite(key, Some(lease));
                world.drain_request(world.cast[1]);
            })
        },
        ANOTHER_ACTS,
    ];
    attack(SCRIPT, &[around(Broken::InexactCheck)], plain);
}

#[test]
fn a_held_key_vanishes_while_the_plan_says_nobody() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                let lease = world.lease(world.cast[1]);
                world.only_reaches_a_deposed_leader(world.cast[1]);
                let plan = world.depot.keys.plan(&world.scenario.works[0].0);
                world.overwrite(plan, None);
                let held = world.depot.keys.held(lease);
                world.delete(&held);
            })
        },
        ANOTHER_ACTS,
    ];
    attack(SCRIPT, &[engine(NobodyFreedAtOnce)], plain);
}

#[test]
fn a_late_put_after_a_newer_put() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|world, flight| is_put(flight) && of(world, 1, flight));
            })
        },
        |world| world.once(world.keeps(is_put), |world| world.hold = None),
        |world| {
            let Some(Ask::Own(late)) = world.held.first().map(|flight| &flight.ask) else {
                return false;
            };
            let newer = late.change < world.procs[world.cast[1]].own.done;
            newer && LET_GO(world)
        },
    ];
    attack(SCRIPT, &[around(Broken::PlainPut)], plain);
}
