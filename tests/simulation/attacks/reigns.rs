//! Attacks on the order and the length of terms: lagging watches, old beats, silence, patience.

use bellwether::engine::Input;

use super::*;

#[test]
fn the_successors_watch_lags_and_it_believes_the_leader_silent() {
    const SCRIPT: &[Move] = &[
        |world| world.opening(|world| world.stall_watch(world.cast[1])),
        |world| 0 < world.stats.refused.of("take"),
    ];
    attack(SCRIPT, &[around(Broken::TakeWithoutRecord)], plain);
}

#[test]
fn an_old_beat_lands_after_its_leader_was_deposed_and_enrolled_again() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|world, flight| is_beat(flight) && of(world, 0, flight));
            })
        },
        |world| world.first_is_back_in_line(),
        LET_GO,
    ];
    attack(SCRIPT, &[around(Broken::FenceByExistence)], plain);
}

#[test]
fn d_differs_between_nodes() {
    const SCRIPT: &[Move] = &[
        |world| {
            if !world.opening(|_| ()) {
                return false;
            }
            let leader = world.cast[0];
            if world.procs[leader].slot != 0 {
                world.ask(leader, Input::Resign);
                return false;
            }
            world.cut_off(leader);
            true
        },
        ANOTHER_LEADS,
    ];
    attack(SCRIPT, &[around(Broken::OwnDInsteadOfRecords)], first_is_patient);
}

#[test]
fn several_unclean_ends_in_a_row() {
    const SCRIPT: &[Move] = &[
        |world| world.opening(|world| world.vanishes(world.cast[0])),
        |world| {
            world.once(world.another_leads(), |world| {
                if world.leads(2) {
                    world.cast.swap(1, 2);
                }
                world.since = world.now;
                world.vanishes(world.cast[1]);
            })
        },
        // The wait for the first node's authority is not repeated.
        |world| world.leads(2) && !world.passed(2 * SECONDS),
    ];
    attack(SCRIPT, &[around(Broken::NoWaitAfterUncleanEnd)], plain);
}

/// The leader leaves. The next candidate lives and renews its lease, but the network holds its TAKEs back.
#[test]
fn the_oldest_candidate_lives_but_is_wedged() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.order_of_the_line();
                world.hold = Some(|world, flight| {
                    (is_take(flight) || is_withdraw(flight)) && of(world, 1, flight)
                });
                world.ask(world.cast[0], Input::Stop);
            })
        },
        |world| world.leads(2),
        // The TAKEs of the second node arrive after all.
        LET_GO,
    ];
    attack(SCRIPT, &[around(Broken::NoPatience)], plain);
}

#[test]
fn the_leader_pauses_between_check_and_effect() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|world, flight| is_fenced(flight) && of(world, 0, flight));
            })
        },
        |world| {
            let sent = !world.held.is_empty();
            world.once(sent, |world| {
                world.ask(world.cast[0], Input::Resign);
            })
        },
        |world| world.first_is_back_in_line(),
        LET_GO,
        |world| world.once(true, |world| world.since = world.now),
        |world| world.passed(100 * MILLIS),
    ];
    attack(SCRIPT, &[around(Broken::FenceByExistence)], plain);
}
