//! The attacks of the protocol's table, each played as it is written: the moves of a script are made one
//! after another, each as soon as its moment has come. The engine must withstand each of them; with the
//! rule that stands against it left out, some seed must show what comes of it.

use bellwether::{
    engine::{
        Call, Failover, Input, LeaseId, PlanTable, WorkType,
        mutant::Mutant::{self, *},
    },
    store::{KeyRange, Op, Txn, protocol::Request, values},
};

use crate::{
    breaks::{Break, Broken},
    chance::{MILLIS, SECONDS},
    host::ProcId,
    scenario::{Move, Scenario},
    tell,
    wire::{Ask, From, InFlight},
    world::{Trace, World, run},
};

/// Each attack is played with so many seeds: latencies, clocks and who leads differ.
const SEEDS: u64 = 12;
const LONG: u64 = 15 * SECONDS;

fn engine(mutant: Mutant) -> Break {
    Break::Engine(mutant)
}

fn around(broken: Broken) -> Break {
    Break::Harness(broken)
}

fn stage(seed: u64, script: &'static [Move], tune: fn(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::quiet(seed, 3);
    scenario.nodes = vec![Failover::DEFAULT; 3];
    scenario.works = vec![(WorkType::new("checks"), 6)];
    scenario.used_before = true;
    scenario.ttl = 5;
    scenario.faults_for = 25 * SECONDS;
    scenario.call_timeout = std::time::Duration::from_millis(300);
    scenario.script = script;
    tune(&mut scenario);
    scenario
}

/// Plays an attack against the engine, and against the engine without each of these rules.
fn attack(script: &'static [Move], rules: &[Break], tune: fn(&mut Scenario)) {
    for seed in 0..SEEDS {
        let report = run(stage(seed, script, tune), None, Trace::Hash);
        assert!(report.violation.is_none(), "{}", tell(seed, stage(seed, script, tune), None));
        assert_eq!(report.moves, script.len(), "seed {seed}: not all moves were made");
    }
    for rule in rules {
        if matches!(rule, Break::Engine(_)) && !cfg!(feature = "mutants") {
            continue;
        }
        let found = (0..SEEDS).find_map(|seed| {
            run(stage(seed, script, tune), Some(*rule), Trace::Hash).violation.map(|v| (seed, v))
        });
        match found {
            Some((seed, violation)) => {
                println!("{rule:?}: {:?} by seed {seed}: {}", violation.rule, violation.what);
            }
            None => panic!("{rule:?} withstands the attack in {SEEDS} seeds"),
        }
    }
}

fn plain(_: &mut Scenario) {}

fn work_ends_slowly(scenario: &mut Scenario) {
    scenario.slow_join_percent = 100;
}

fn parents_watch(scenario: &mut Scenario) {
    scenario.supervised_percent = 100;
}

fn first_is_patient(scenario: &mut Scenario) {
    scenario.nodes = vec![Failover::STABLE, Failover::FAST, Failover::FAST];
}

// What the moves are made of.

fn by(flight: &InFlight) -> Option<ProcId> {
    match flight.from {
        From::Engine(p, _) | From::Work(p) => Some(p),
        From::Parent(..) => None,
    }
}

impl World {
    fn is_settled(&self) -> bool {
        self.leader_problem().is_none() && self.shard_problem().is_none()
    }

    fn leader(&self) -> Option<ProcId> {
        (0..self.procs.len()).find(|p| {
            let proc = &self.procs[*p];
            proc.alive && proc.work.is_some() && self.now < proc.authority_until
        })
    }

    fn lease(&self, p: ProcId) -> LeaseId {
        self.procs[p].engine.joined().expect("it has joined")
    }

    /// Casts the leader, then the two others.
    fn cast_all(&mut self) -> bool {
        if !self.is_settled() {
            return false;
        }
        let Some(leader) = self.leader() else { return false };
        let others = (0..self.procs.len()).filter(|p| *p != leader && self.procs[*p].alive);
        self.cast = std::iter::once(leader).chain(others).collect();
        let shard = self.procs[self.cast[1]].shards.keys().next().cloned();
        self.prop = shard;
        self.cast.len() == 3 && self.prop.is_some()
    }

    fn another_leads(&self) -> bool {
        self.leader().is_some_and(|p| p != self.cast[0])
    }

    fn acts(&self, p: ProcId) -> bool {
        self.prop.as_ref().is_some_and(|shard| self.may_act_on(p, shard))
    }

    /// Whether somebody else than that one acts on the shard it is about.
    fn another_acts(&self, than: ProcId) -> bool {
        let shard = self.prop.as_ref().expect("there is one");
        (0..self.procs.len()).any(|q| q != than && self.may_act_on(q, shard))
    }

    fn stall_watch(&mut self, p: ProcId) {
        self.procs[p].watch.stalled_until = self.now + LONG;
    }

    fn unstall_watch(&mut self, p: ProcId) {
        let now = self.now;
        let watch = &mut self.procs[p].watch;
        watch.stalled_until = now;
        for (at, _) in &mut watch.under_way {
            *at = now;
        }
        for _ in 0..self.procs[p].watch.under_way.len() {
            self.at(now, crate::world::Event::WatchArrive(p));
        }
    }

    fn cut_off(&mut self, p: ProcId) {
        let links = &mut self.slots[self.procs[p].slot];
        links.up_cut_until = self.now + LONG;
        links.down_cut_until = self.now + LONG;
    }

    /// It reaches a member of the store that has lost its quorum, and does not know.
    fn only_reaches_a_deposed_leader(&mut self, p: ProcId) {
        let slot = self.procs[p].slot;
        self.slots[slot].stale_until = self.now + LONG;
        self.slots[slot].minority_until = self.now + LONG;
        self.stall_watch(p);
    }

    fn revoke(&mut self, lease: LeaseId) {
        let _ = self.depot.serve(self.now, &Request::Revoke(lease));
        self.publish();
    }

    fn overwrite(&mut self, key: Vec<u8>, lease: Option<LeaseId>) {
        self.depot.history.meddled();
        let put = Op::Put { key, value: b"oops".to_vec(), lease };
        let txn = Txn { then: vec![put], ..Txn::default() };
        let _ = self.depot.serve(self.now, &Request::Txn(txn));
        self.publish();
    }

    fn delete(&mut self, key: &[u8]) {
        self.depot.history.meddled();
        let txn = Txn { then: vec![Op::Delete(KeyRange::key(key))], ..Txn::default() };
        let _ = self.depot.serve(self.now, &Request::Txn(txn));
        self.publish();
    }

    fn planned(&self) -> Option<PlanTable> {
        let key = self.depot.keys.plan(&self.scenario.works[0].0);
        values::decode_plan(&self.depot.get(&key)?.value)
    }

    /// Picks a shard that the plan gives to `p` and nobody is seen to have.
    fn pick_given(&mut self, p: ProcId) -> bool {
        let lease = self.lease(p);
        let Some(table) = self.planned() else { return false };
        let work = self.scenario.works[0].0.clone();
        let given = (0u32..).zip(&table.shards).find(|(number, assignment)| {
            let shard = (work.clone(), bellwether::engine::ShardId(*number));
            assignment.owner == Some(lease)
                && !assignment.draining
                && self.procs.iter().all(|proc| !proc.shards.contains_key(&shard))
        });
        self.prop = given.map(|(number, _)| (work, bellwether::engine::ShardId(number)));
        self.prop.is_some()
    }

    /// Whether a PLAN is held back that gives the shard to another than `p`.
    fn plan_held_back(&self, p: ProcId) -> bool {
        let shard = self.prop.as_ref().expect("there is one");
        let lease = self.lease(p);
        self.held.iter().any(|flight| match &flight.ask {
            Ask::Call(Call::Plan { table, .. }) => {
                let assignment = &table.shards[shard.1.0 as usize];
                assignment.owner.is_some_and(|owner| owner != lease) && !assignment.draining
            }
            _ => false,
        })
    }

    /// Lets what was held back arrive, in the order in which it was sent.
    fn release(&mut self, which: fn(&InFlight) -> bool) {
        for flight in std::mem::take(&mut self.held) {
            if which(&flight) {
                self.at(self.now, crate::world::Event::Arrive(Box::new(flight)));
            } else {
                self.held.push(flight);
            }
        }
    }
}

fn is_beat(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Beat { .. }))
}

fn is_resign(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Resign { .. }))
}

fn is_plan(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::Plan { .. }))
}

fn is_claim(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Call(Call::WriteHeld { .. }))
}

fn is_put(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::Put { .. })
}

fn is_shard_write(flight: &InFlight) -> bool {
    matches!(flight.ask, Ask::ShardWrite(..))
}

#[test]
fn the_successors_watch_lags_and_it_believes_the_leader_silent() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.stall_watch(world.cast[1]);
            }
            ready
        },
        |world| 0 < world.stats.refused.of("take"),
    ];
    attack(SCRIPT, &[around(Broken::TakeWithoutRecord)], plain);
}

#[test]
fn an_old_beat_lands_after_its_leader_was_deposed_and_enrolled_again() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.hold =
                    Some(|world, flight| is_beat(flight) && by(flight) == Some(world.cast[0]));
            }
            ready
        },
        |world| {
            let key = world.depot.keys.candidate(world.lease(world.cast[0]));
            world.another_leads() && world.depot.get(&key).is_some()
        },
        |world| {
            world.hold = None;
            world.release(is_beat);
            true
        },
    ];
    attack(SCRIPT, &[around(Broken::FenceByExistence)], plain);
}

#[test]
fn d_differs_between_nodes() {
    const SCRIPT: &[Move] = &[
        |world| {
            if !world.cast_all() {
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
        |world| world.another_leads(),
    ];
    attack(SCRIPT, &[engine(OwnDInsteadOfRecords)], first_is_patient);
}

#[test]
fn the_record_is_deleted_by_hand() {
    const SCRIPT: &[Move] = &[
        |world| {
            if !world.cast_all() {
                return false;
            }
            world.cut_off(world.cast[0]);
            let record = world.depot.keys.record();
            world.delete(&record);
            true
        },
        |world| world.another_leads(),
    ];
    attack(SCRIPT, &[engine(AbsentRecordNotWaitedFor)], plain);
}

#[test]
fn the_leaders_candidate_key_is_deleted_while_it_is_cut_off() {
    const SCRIPT: &[Move] = &[
        |world| {
            if !world.cast_all() {
                return false;
            }
            let leader = world.cast[0];
            world.cut_off(leader);
            let key = world.depot.keys.candidate(world.lease(leader));
            world.delete(&key);
            true
        },
        |world| world.another_leads(),
    ];
    attack(SCRIPT, &[engine(NoWaitAfterUncleanEnd)], plain);
}

#[test]
fn a_waiting_candidate_gets_a_stop_and_marks_a_clean_end() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.hold =
                    Some(|_, flight| matches!(flight.ask, Ask::Call(Call::Withdraw { .. })));
                world.ask(world.cast[1], Input::Stop);
            }
            ready
        },
        |world| !world.procs[world.cast[1]].alive,
    ];
    attack(SCRIPT, &[engine(EndedByOutsider)], plain);
}

#[test]
fn a_clean_end_while_a_routine_still_runs() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.ask(world.cast[0], Input::Resign);
            }
            ready
        },
        |world| world.another_leads(),
    ];
    attack(SCRIPT, &[engine(EndedBeforeJoined)], work_ends_slowly);
}

#[test]
fn resigns_answer_is_lost_and_the_node_goes_on() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.hold = Some(|_, flight| is_resign(flight));
                world.ask(world.cast[0], Input::Resign);
            }
            ready
        },
        |world| {
            let sent = world.held.iter().any(is_resign);
            if sent {
                world.hold = None;
                world.release(is_resign);
            }
            sent
        },
        |world| world.another_leads(),
    ];
    attack(SCRIPT, &[engine(ResumeAfterLostResign), engine(DropAfterResigning)], plain);
}

#[test]
fn the_supervisor_ends_a_follower_while_the_record_is_the_leaders() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.kill(world.cast[1]);
            }
            ready
        },
        |world| 0 < world.stats.ends_by_parents,
    ];
    attack(SCRIPT, &[around(Broken::EndOfForeignRecord)], parents_watch);
}

/// The plan gives a shard to the second, whose watch lags; then to the third, which starts.
const READ_LATE: &[Move] = &[
    |world| {
        let ready = world.cast_all();
        if ready {
            world.stall_watch(world.cast[1]);
            world.ask(world.cast[2], Input::Drain(true));
        }
        ready
    },
    |world| {
        let given = world.pick_given(world.cast[1]);
        if given {
            world.ask(world.cast[2], Input::Drain(false));
            world.ask(world.cast[1], Input::Drain(true));
        }
        given
    },
    |world| {
        let acts = world.another_acts(world.cast[1]);
        if acts {
            world.unstall_watch(world.cast[1]);
        }
        acts
    },
];

#[test]
fn a_plan_is_read_late_and_the_old_owner_starts_after_the_shard_was_given_on() {
    attack(READ_LATE, &[engine(ActWithoutClaim)], plain);
}

/// The plan gives a shard to the second, whose claim is on its way for long; then to another.
const CLAIM_ON_ITS_WAY: Move = |world| {
    let ready = world.cast_all();
    if ready {
        world.hold = Some(|world, flight| is_claim(flight) && by(flight) == Some(world.cast[1]));
        world.ask(world.cast[2], Input::Drain(true));
    }
    ready
};

#[test]
fn a_claim_lands_after_the_plan_has_given_the_shard_to_another() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        |world| {
            let given = world.pick_given(world.cast[1]) && world.held.iter().any(is_claim);
            if given {
                world.ask(world.cast[2], Input::Drain(false));
                world.ask(world.cast[1], Input::Drain(true));
            }
            given
        },
        |world| world.another_acts(world.cast[1]),
        |world| {
            world.hold = None;
            world.release(is_claim);
            true
        },
    ];
    attack(SCRIPT, &[engine(ClaimWithoutPlan)], plain);
}

/// A claim commits while a PLAN is on the wire that gives its shard to another.
const AND_A_PLAN: Move = |world| {
    let given = world.pick_given(world.cast[1]) && world.held.iter().any(is_claim);
    if given {
        world.hold = Some(|world, flight| {
            is_plan(flight) || is_claim(flight) && by(flight) == Some(world.cast[1])
        });
        world.ask(world.cast[2], Input::Drain(false));
        world.ask(world.cast[1], Input::Drain(true));
    }
    given
};

const CLAIM_COMMITS: Move = |world| {
    let planned = world.plan_held_back(world.cast[1]);
    if planned {
        world.hold = Some(|_, flight| is_plan(flight));
        world.release(is_claim);
    }
    planned
};

#[test]
fn claim_and_plan_cross() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        AND_A_PLAN,
        CLAIM_COMMITS,
        |world| {
            let owner = world.cast[1];
            let acts = world.acts(owner);
            if acts {
                world.only_reaches_a_deposed_leader(owner);
                world.hold = None;
                world.release(is_plan);
                world.since = world.now;
            }
            acts
        },
        |world| {
            // By now the PLAN has committed or not.
            let over = world.since + 100 * MILLIS < world.now;
            if over {
                world.revoke(world.lease(world.cast[1]));
            }
            over
        },
        |world| world.another_acts(world.cast[1]),
    ];
    attack(SCRIPT, &[engine(PlanWithoutProof)], plain);
}

#[test]
fn the_owner_claims_and_its_lease_is_revoked_while_a_plan_is_on_the_wire() {
    const SCRIPT: &[Move] = &[
        CLAIM_ON_ITS_WAY,
        AND_A_PLAN,
        CLAIM_COMMITS,
        |world| {
            let owner = world.cast[1];
            let acts = world.acts(owner);
            if acts {
                let lease = world.lease(owner);
                world.only_reaches_a_deposed_leader(owner);
                world.revoke(lease);
                world.hold = None;
                world.release(is_plan);
            }
            acts
        },
        |world| world.another_acts(world.cast[1]),
    ];
    attack(SCRIPT, &[around(Broken::PlanWithRange)], plain);
}

#[test]
fn a_lease_is_revoked_early_while_a_deposed_leader_of_the_store_answers_keepalives() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                let lease = world.lease(world.cast[1]);
                world.only_reaches_a_deposed_leader(world.cast[1]);
                world.revoke(lease);
            }
            ready
        },
        |world| world.another_acts(world.cast[1]),
    ];
    let rules = [engine(ShardAuthorityFromKeepalive), engine(VanishedOwnerFreedAtOnce)];
    attack(SCRIPT, &rules, plain);
}

#[test]
fn an_operator_overwrites_a_held_key() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                let lease = world.lease(world.cast[1]);
                world.stall_watch(world.cast[1]);
                let key = world.depot.keys.held(lease);
                world.overwrite(key, Some(lease));
                world.ask(world.cast[1], Input::Drain(true));
            }
            ready
        },
        |world| world.another_acts(world.cast[1]),
    ];
    attack(SCRIPT, &[engine(InexactCheck)], plain);
}

#[test]
fn a_held_key_vanishes_while_the_plan_says_nobody() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                let lease = world.lease(world.cast[1]);
                world.only_reaches_a_deposed_leader(world.cast[1]);
                let plan = world.depot.keys.plan(&world.scenario.works[0].0);
                world.overwrite(plan, None);
                let held = world.depot.keys.held(lease);
                world.delete(&held);
            }
            ready
        },
        |world| world.another_acts(world.cast[1]),
    ];
    attack(SCRIPT, &[engine(NobodyFreedAtOnce)], plain);
}

#[test]
fn a_shard_is_let_go_of_only_after_its_last_task_has_ended() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.ask(world.cast[1], Input::Drain(true));
            }
            ready
        },
        |world| world.another_acts(world.cast[1]),
    ];
    attack(SCRIPT, &[engine(ReleaseBeforeStopping)], work_ends_slowly);
}

#[test]
fn a_late_shard_write_of_an_old_owner() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.hold = Some(|world, flight| {
                    is_shard_write(flight) && by(flight) == Some(world.cast[1])
                });
            }
            ready
        },
        |world| {
            let shard = world.prop.clone().expect("there is one");
            let sent = world
                .held
                .iter()
                .any(|flight| matches!(&flight.ask, Ask::ShardWrite(_, _, of, _) if *of == shard));
            if sent {
                world.ask(world.cast[1], Input::Drain(true));
            }
            sent
        },
        |world| {
            let acts = world.another_acts(world.cast[1]);
            world.since = world.now;
            acts
        },
        |world| {
            // By now the new owner has written.
            let over = world.since + SECONDS < world.now;
            if over {
                world.hold = None;
                world.release(is_shard_write);
            }
            over
        },
    ];
    attack(SCRIPT, &[around(Broken::ShardWriteByExistence)], plain);
}

#[test]
fn a_late_put_after_a_newer_put() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.hold =
                    Some(|world, flight| is_put(flight) && by(flight) == Some(world.cast[1]));
            }
            ready
        },
        |world| {
            let sent = world.held.iter().any(is_put);
            if sent {
                world.hold = None;
            }
            sent
        },
        |world| {
            let Some(Ask::Put { value, .. }) = world.held.first().map(|flight| &flight.ask) else {
                return false;
            };
            let newer = *value < world.procs[world.cast[1]].state.written;
            if newer {
                world.release(is_put);
            }
            newer
        },
    ];
    attack(SCRIPT, &[around(Broken::PlainPut)], plain);
}

#[test]
fn the_leader_pauses_between_check_and_effect() {
    const SCRIPT: &[Move] = &[
        |world| {
            let ready = world.cast_all();
            if ready {
                world.hold = Some(|world, flight| {
                    matches!(flight.ask, Ask::Fenced(_)) && by(flight) == Some(world.cast[0])
                });
            }
            ready
        },
        |world| {
            let sent = !world.held.is_empty();
            if sent {
                world.ask(world.cast[0], Input::Resign);
            }
            sent
        },
        |world| {
            let key = world.depot.keys.candidate(world.lease(world.cast[0]));
            world.another_leads() && world.depot.get(&key).is_some()
        },
        |world| {
            world.hold = None;
            world.release(|flight| matches!(flight.ask, Ask::Fenced(_)));
            world.since = world.now;
            true
        },
        |world| world.since + 100 * MILLIS < world.now,
    ];
    attack(SCRIPT, &[around(Broken::FenceByExistence)], plain);
}
