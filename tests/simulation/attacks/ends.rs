//! Attacks on how a term or a process ends: STOP, RESIGN, proof of death, and requests that a dead process
//! leaves on the wire.

use bellwether::engine::{Input, LeaseId};

use super::*;
use crate::world::{Event, Proof};

#[test]
fn a_waiting_candidate_gets_a_stop_and_marks_a_clean_end() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|_, flight| is_withdraw(flight));
                world.ask(world.cast[1], Input::Stop);
            })
        },
        |world| !world.procs[world.cast[1]].alive,
    ];
    attack(SCRIPT, &[around(Broken::EndedByOutsider)], plain);
}

#[test]
fn a_clean_end_while_a_routine_still_runs() {
    const SCRIPT: &[Move] =
        &[|world| world.opening(|world| world.ask(world.cast[0], Input::Resign)), ANOTHER_LEADS];
    attack(SCRIPT, &[around(Broken::EndedBeforeJoined)], work_ends_slowly);
}

#[test]
fn resigns_answer_is_lost_and_the_node_goes_on() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|_, flight| is_resign(flight));
                world.ask(world.cast[0], Input::Resign);
            })
        },
        |world| world.keeps(is_resign) && LET_GO(world),
        ANOTHER_LEADS,
    ];
    attack(
        SCRIPT,
        &[around(Broken::ResumeAfterLostResign), around(Broken::DropAfterResigning)],
        plain,
    );
}

#[test]
fn the_supervisor_ends_a_follower_while_the_record_is_the_leaders() {
    const SCRIPT: &[Move] = &[
        |world| world.opening(|world| world.kill(world.cast[1])),
        |world| 0 < world.stats.ends_by_parents,
    ];
    attack(SCRIPT, &[around(Broken::EndOfForeignRecord)], parents_watch);
}

#[test]
fn a_child_is_dead_and_its_beat_is_still_on_the_wire() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.hold = Some(|world, flight| is_beat(flight) && of(world, 0, flight));
            })
        },
        |world| {
            world.once(world.keeps(is_beat), |world| {
                // END is held back, so that the beat arrives first.
                world.hold = Some(|_, flight| matches!(flight.ask, Ask::Call(Call::End { .. })));
                world.kill(world.cast[0]);
            })
        },
        |world| {
            let both = world.keeps(|flight| matches!(flight.from, From::Parent(..)));
            world.once(both, |world| world.release(is_beat))
        },
        // END arrives only after another node has taken office.
        |world| world.another_leads() && LET_GO(world),
        |world| 0 < world.stats.refused.of("end"),
    ];
    attack(SCRIPT, &[around(Broken::EndWithoutRecord)], parents_watch);
}

impl World {
    /// The process dies, and its parent ends all of its incarnations.
    fn dies(&mut self, p: ProcId, again: Option<Proof>) {
        let leases = std::mem::take(&mut self.procs[p].announced);
        self.end_proc(p);
        self.parent_ends(self.procs[p].slot, leases, again);
    }

    /// The JOIN that the network holds back, and its lease.
    fn kept_join(&self) -> Option<(&InFlight, LeaseId)> {
        self.held.iter().find_map(|flight| match &flight.ask {
            Ask::Call(Call::Join(join)) => Some((flight, join.lease)),
            _ => None,
        })
    }

    /// Lease of the incarnation whose GRANT and JOIN arrive after its REVOKE, if its candidate key exists.
    fn ghost(&self) -> Option<LeaseId> {
        let (_, lease) = self.kept_join()?;
        self.depot.get(&self.depot.keys.candidate(lease)).map(|_| lease)
    }
}

/// The late JOIN leaves a candidate key without a process in the queue. The other candidates depose it by
/// patience (R6, when to TAKE) once it is the oldest.
#[test]
fn a_grant_and_a_join_of_a_dead_child_land_after_the_revoke() {
    const SCRIPT: &[Move] = &[
        |world| {
            world.opening(|world| {
                world.order_of_the_line();
                world.hold = Some(|_, flight| matches!(flight.ask, Ask::Call(Call::Join(_))));
                world.dies(world.cast[2], Some(Proof::None));
            })
        },
        |world| {
            let born = world.kept_join().map(|(flight, _)| by(flight));
            world.once(born.is_some(), |world| {
                world.dies(born.flatten().expect("a node joins"), None);
            })
        },
        |world| {
            let Some((join, lease)) = world.kept_join() else { return false };
            let join = join.clone();
            let ttl = std::time::Duration::from_secs(world.scenario.ttl);
            let grant = InFlight { ask: Ask::Call(Call::Grant { lease, ttl }), ..join.clone() };
            let over = !world.depot.leases().contains(&lease) && 1 < world.stats.ends_by_parents;
            world.once(over, |world| {
                world.hold = None;
                // The first JOIN fails. The second one follows a copy of the GRANT, and takes effect for a dead
                // process.
                for (after, flight) in (0..).zip([join.clone(), grant, join]) {
                    world.at(world.now + after * MILLIS, Event::Arrive(Box::new(flight)));
                }
            })
        },
        |world| {
            world.once(world.ghost().is_some(), |world| world.ask(world.cast[0], Input::Resign))
        },
        |world| {
            let ready = world.leads(1) && world.first_is_back_in_line();
            world.once(ready, |world| world.ask(world.cast[1], Input::Resign))
        },
        |world| {
            // The node in office has deleted the candidate key long before its lease expires.
            let lease = world.kept_join().map(|(_, lease)| lease).expect("it is kept");
            world.ghost().is_none() && world.depot.leases().contains(&lease)
        },
    ];
    attack(SCRIPT, &[around(Broken::NoPatience)], parents_watch);
}
