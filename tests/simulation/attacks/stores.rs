//! Attacks by a store that is restored from a backup: with revisions bumped, so that nothing shows by
//! going back.

use super::*;

/// No lease ends, nor its session (R16), while the store is restored.
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

/// The successor saw the old leader's key deleted, which the backup does not know of, and its TAKE comes
/// to a store in which that key proves an office again.
#[test]
fn a_take_of_the_lost_history_lands_beside_the_old_leaders_key() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.back_up();
                // It stands still: an office whose beats are not answered is given up by now (R13).
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
