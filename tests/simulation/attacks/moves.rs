//! Attacks on the shards: plans, claims and releases that cross, come late, or get lost.

use bellwether::engine::Input;

use super::*;

/// The plan gives a shard to the second node, whose watch lags; then to the third node, which starts work on
/// it.
const READ_LATE: &[Move] = &[
    |world| {
        world.opening(|world| {
            world.stall_watch(world.cast[1]);
            world.ask(world.cast[2], Input::Drain(true));
        })
    },
    |world| {
        let given = world.pick_given(world.cast[1]);
        world.once(given, World::back_to_the_third)
    },
    |world| {
        world.once(world.another_acts(world.cast[1]), |world| world.unstall_watch(world.cast[1]))
    },
];

impl World {
    /// Moves shards from the second node, whose watch lags, to the third.
    fn back_to_the_third(&mut self) {
        self.stall_watch(self.cast[1]);
        self.ask(self.cast[2], Input::Drain(false));
        self.drain_request(self.cast[1]);
    }
}

#[test]
fn a_plan_is_read_late_and_the_old_owner_starts_after_the_shard_was_given_on() {
    attack(READ_LATE, &[around(Broken::ActWithoutClaim)], plain);
}

fn is_claim_of_the_second(world: &World, flight: &InFlight) -> bool {
    is_claim(flight) && of(world, 1, flight)
}

/// The plan gives a shard to the second node, whose claim is delayed; then the plan gives it to another node.
const CLAIM_ON_ITS_WAY: Move = |world| {
    world.opening(|world| {
        world.hold = Some(is_claim_of_the_second);
        world.ask(world.cast[2], Input::Drain(true));
    })
};

#[test]
fn a_claim_lands_after_the_plan_has_given_the_shard_to_another() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        |world| {
            let given = world.pick_given(world.cast[1]) && world.keeps(is_claim);
            world.once(given, World::back_to_the_third)
        },
        ANOTHER_ACTS,
        LET_GO,
    ];
    attack(SCRIPT, &[around(Broken::ClaimWithoutPlan)], plain);
}

/// The claim takes effect and its answer is lost: the owner must still find out in time that it owns the shard.
#[test]
fn the_answer_of_a_claim_is_lost() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        |world| {
            let given = world.pick_given(world.cast[1]) && world.keeps(is_claim);
            world.once(given, |world| world.since = world.now)
        },
        // The claim's call has timed out by now, and the leader still waits for the claim.
        |world| world.passed(400 * MILLIS) && LET_GO(world),
        |world| world.acts(world.cast[1]),
    ];
    attack(SCRIPT, &[around(Broken::ClaimNotSettled)], plain);
}

/// The node holds no other shard for which it would check its held key.
#[test]
fn the_answer_of_a_first_claim_is_lost() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_the_idle_second();
            world.once(ready, |world| {
                world.hold = Some(is_claim_of_the_second);
                world.ask(world.cast[2], Input::Drain(true));
            })
        },
        |world| {
            let given = world.pick_given(world.cast[1]) && world.keeps(is_claim);
            world.once(given, |world| {
                // Without this stall, the node's view would show the outcome of the claim.
                world.stall_watch(world.cast[1]);
                world.since = world.now;
            })
        },
        |world| world.passed(400 * MILLIS) && LET_GO(world),
        |world| world.acts(world.cast[1]),
    ];
    attack(SCRIPT, &[around(Broken::ClaimNotSettled)], one_shard);
}

fn one_shard(scenario: &mut Scenario) {
    scenario.works = vec![(WorkType::new("checks"), 1)];
    // Shorter than the stall of the watch.
    scenario.faults_for = 12 * SECONDS;
}

/// A claim commits while a PLAN that gives its shard to another node is on the wire.
const AND_A_PLAN: Move = |world| {
    let given = world.pick_given(world.cast[1]) && world.keeps(is_claim);
    world.once(given, |world| {
        world.hold = Some(|world, flight| is_plan(flight) || is_claim_of_the_second(world, flight));
        world.back_to_the_third();
    })
};

const CLAIM_COMMITS: Move = |world| {
    world.once(world.plan_held_back(world.cast[1]), |world| {
        world.hold = Some(|_, flight| is_plan(flight));
        world.release(is_claim);
    })
};

#[test]
fn claim_and_plan_cross() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        AND_A_PLAN,
        CLAIM_COMMITS,
        |world| {
            world.once(world.acts(world.cast[1]), |world| {
                world.only_reaches_a_deposed_leader(world.cast[1]);
                LET_GO(world);
                world.since = world.now;
            })
        },
        |world| {
            // By now the PLAN has either committed or been refused.
            world.once(world.passed(100 * MILLIS), |world| {
                world.revoke(world.lease(world.cast[1]));
            })
        },
        ANOTHER_ACTS,
    ];
    attack(SCRIPT, &[around(Broken::PlanWithoutProof)], plain);
}

#[test]
fn the_owner_claims_and_its_lease_is_revoked_while_a_plan_is_on_the_wire() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        AND_A_PLAN,
        CLAIM_COMMITS,
        |world| {
            world.once(world.acts(world.cast[1]), |world| {
                let lease = world.lease(world.cast[1]);
                world.only_reaches_a_deposed_leader(world.cast[1]);
                world.revoke(lease);
                LET_GO(world);
            })
        },
        ANOTHER_ACTS,
    ];
    attack(SCRIPT, &[around(Broken::PlanWithRange)], plain);
}

#[test]
fn a_shard_is_let_go_of_only_after_its_last_task_has_ended() {
    const SCRIPT: &[Move] = &[
        |world| world.opening(|world| world.ask(world.cast[1], Input::Drain(true))),
        ANOTHER_ACTS,
    ];
    attack(SCRIPT, &[around(Broken::ReleaseBeforeStopping)], work_ends_slowly);
}

/// The second node must release its shards, and its release is delayed.
const RELEASE_ON_ITS_WAY: Move = |world| {
    world.opening(|world| {
        world.hold = Some(is_claim_of_the_second);
        world.ask(world.cast[1], Input::Drain(true));
    })
};

#[test]
fn the_leader_dies_between_drain_and_assign() {
    const SCRIPT: &[Move] = &[
        RELEASE_ON_ITS_WAY,
        |world| {
            let drains = world.drains() && world.keeps(is_claim);
            world.once(drains, |world| world.end_proc(world.cast[0]))
        },
        |world| world.once(world.leads(2), |world| world.since = world.now),
        // Time enough for the new leader to assign a shard that is not free.
        |world| world.passed(500 * MILLIS) && world.drains() && LET_GO(world),
        ANOTHER_ACTS,
    ];
    attack(SCRIPT, &[engine(DrainingFreedAtOnce)], plain);
}

#[test]
fn a_drain_is_called_off_while_the_owner_releases() {
    const SCRIPT: &[Move] = &[
        RELEASE_ON_ITS_WAY,
        |world| {
            let drains = world.drains() && world.keeps(is_claim);
            world.once(drains, |world| {
                world.ask(world.cast[1], Input::Drain(false));
                world.ask(world.cast[2], Input::Drain(true));
                world.since = world.now;
            })
        },
        |world| world.passed(500 * MILLIS) && LET_GO(world),
        // The plan assigns the shard again, under a new epoch, to any node.
        |world| !world.drains() && world.shard_problem().is_none(),
    ];
    attack(SCRIPT, &[around(Broken::DrainCalledOff)], plain);
}

/// The plan key is lost during a release, and the new plan, made from the leader's view, names the old owner
/// again.
#[test]
fn a_plan_names_an_epoch_that_its_owner_has_released() {
    const SCRIPT: &[Move] = &[
        RELEASE_ON_ITS_WAY,
        |world| {
            let drains = world.drains() && world.keeps(is_claim);
            world.once(drains, |world| {
                // The leader's view shows the lost plan, but not the release.
                let plan = world.depot.keys.plan(&world.scenario.works[0].0);
                world.overwrite(plan, None);
                world.ask(world.cast[1], Input::Drain(false));
            })
        },
        |world| {
            let named = world.plan_names(world.cast[1]);
            world.once(named, |world| world.since = world.now) && LET_GO(world)
        },
        |world| world.passed(SECONDS) && world.shard_problem().is_none(),
    ];
    attack(SCRIPT, &[engine(ReleasedClaimedAgain)], plain);
}

#[test]
fn a_late_shard_write_of_an_old_owner() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|world, flight| is_shard_write(flight) && of(world, 1, flight));
            })
        },
        |world| {
            let shard = world.the_shard().clone();
            let sent = world
                .held
                .iter()
                .any(|flight| matches!(&flight.ask, Ask::ShardWrite(_, _, of, _) if *of == shard));
            world.once(sent, |world| world.ask(world.cast[1], Input::Drain(true)))
        },
        |world| world.once(world.another_acts(world.cast[1]), |world| world.since = world.now),
        // The new owner has written by now.
        |world| world.passed(SECONDS) && LET_GO(world),
    ];
    attack(SCRIPT, &[around(Broken::ShardWriteByExistence)], plain);
}
