//! Attacks by a store that is restored from a backup: with bumped revisions, so that no revision goes back, or
//! without, so that one revision names two writes.

use super::*;

/// Leases long enough that neither a lease nor its session (R16, renewals without answer) ends during the
/// restore.
fn long_leases(scenario: &mut Scenario) {
    scenario.ttl = 30;
}

#[test]
fn a_restored_backup_brings_the_old_leaders_key_back() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.back_up();
                world.cut_off(world.cast[0]);
            })
        },
        |world| world.once(world.another_leads(), World::restore),
        |world| {
            world.once(world.is_restored(), |world| {
                world.reconnect(world.cast[0]);
                world.since = world.now;
            })
        },
        |world| world.passed(2 * SECONDS),
    ];
    attack(SCRIPT, &[around(Broken::FenceByCreation)], plain);
}

/// The successor has seen the deletion of the old leader's key. The backup still has that key, and the TAKE of
/// the successor arrives at the restored store, in which the key proves an office again.
#[test]
fn a_take_of_the_lost_history_lands_beside_the_old_leaders_key() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.back_up();
                // The driver is stopped as well: otherwise the leader gives up its office, since its beats get
                // no answer (R13, useless office).
                world.stall_watch(world.cast[0]);
                world.starve(world.cast[0]);
                let key = world.depot.keys.candidate(world.lease(world.cast[0]));
                world.delete(&key);
                world.hold = Some(|_, flight| is_take(flight));
            })
        },
        |world| world.once(world.keeps(is_take), World::restore),
        |world| {
            world.once(world.is_restored(), |world| {
                world.wake(world.cast[0]);
                world.since = world.now;
                LET_GO(world);
            })
        },
        |world| world.passed(2 * SECONDS),
    ];
    attack(SCRIPT, &[around(Broken::TakeWithoutHolder)], long_leases);
}

/// The successor last saw the record at a revision of the lost history. In the restored store the old leader's
/// next beat gets that same revision, and the old leader stays in office.
#[test]
fn a_beat_in_a_restored_store_gets_the_revision_that_a_successor_has_seen() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.back_up();
                world.mark = world.depot.revision();
                world.cut_off(world.cast[2]);
                // The leader's next beat arrives, and its answer does not. No other request than a beat or a
                // TAKE arrives.
                world.cut_down(world.cast[0]);
                world.hold = Some(|_, flight| !is_beat(flight) && !is_take(flight));
            })
        },
        |world| {
            world.once(world.has_beaten(), |world| {
                world.starve(world.cast[0]);
                world.since = world.now;
            })
        },
        |world| {
            world.once(world.passed(50 * MILLIS), |world| {
                world.stall_watch(world.cast[1]);
                world.restore_unbumped();
            })
        },
        |world| {
            world.once(world.is_restored(), |world| {
                world.reconnect(world.cast[0]);
                world.wake(world.cast[0]);
                world.hold = Some(|_, flight| !is_beat(flight));
            })
        },
        |world| {
            world.once(world.has_beaten(), |world| {
                world.since = world.now;
                world.release(is_take);
                world.hold = Some(|_, flight| is_beat(flight));
            })
        },
        |world| world.passed(SECONDS) && LET_GO(world),
        |world| world.passed(3 * SECONDS),
    ];
    attack(SCRIPT, &[around(Broken::TakeByRevision)], long_leases);
}
