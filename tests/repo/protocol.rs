//! Each rule, each transaction and each attack of `docs/protocol.md` has a test that is named after it.

use crate::sources::{Sources, has_extension};

/// Tests that run an attack of the table, or show the rule that prevents it.
const ATTACKS: &[(&str, &[&str])] = &[
    (
        "the successor's watch lags, it believes the leader silent",
        &["the_successors_watch_lags_and_it_believes_the_leader_silent"],
    ),
    (
        "a beat commits long after it was sent",
        &["r1_authority_counts_from_before_the_request_was_sent"],
    ),
    (
        "an old beat after deposing and enrolling again under the same key name",
        &["an_old_beat_lands_after_its_leader_was_deposed_and_enrolled_again"],
    ),
    (
        "a lost beat between two committed ones; beats that commit out of order",
        &["t6_beats_that_commit_out_of_order_or_not_at_all_count_by_the_latest_sending"],
    ),
    (
        "D differs between nodes",
        &["d_differs_between_nodes", "r6_the_wait_is_by_the_records_d_and_not_by_the_own"],
    ),
    (
        "D is changed within a term",
        &["t6_d_is_the_same_in_all_records_of_a_term", "d_differs_between_nodes"],
    ),
    (
        "first leader ever; wiped store; record deleted by hand",
        &[
            "r3_an_absent_record_is_seeded_first_and_then_waited_out",
            "a_wiped_etcd_is_noticed_and_joined_anew_without_a_manual_step",
            "the_record_is_deleted_by_hand",
        ],
    ),
    (
        "record deleted, re-made and deleted while a TAKE is on the wire",
        &["r3_an_absent_record_is_seeded_first_and_then_waited_out"],
    ),
    (
        "a waiting candidate gets SIGTERM and marks a clean end",
        &["a_waiting_candidate_gets_a_stop_and_marks_a_clean_end"],
    ),
    ("a clean end while a routine still runs", &["a_clean_end_while_a_routine_still_runs"]),
    (
        "RESIGN's answer is lost and the node goes on",
        &["resigns_answer_is_lost_and_the_node_goes_on"],
    ),
    (
        "the child is dead, its beat still on the wire",
        &["a_child_is_dead_and_its_beat_is_still_on_the_wire"],
    ),
    (
        "the supervisor ends a follower while the record is the leader's",
        &["the_supervisor_ends_a_follower_while_the_record_is_the_leaders"],
    ),
    (
        "grandchildren live on; a second process in the same pod",
        &[
            "descendants_are_found_at_any_depth_and_nobody_else",
            "one_process_of_a_pod_holds_the_lock_of_a_cluster",
        ],
    ),
    (
        "a grant or join of a dead child lands after REVOKE",
        &["a_grant_and_a_join_of_a_dead_child_land_after_the_revoke"],
    ),
    (
        "a repeated JOIN lands when an operator has deleted node and member",
        &["t2_a_second_join_after_an_operator_deleted_node_and_member_costs_the_lease"],
    ),
    ("several unclean ends in a row", &["several_unclean_ends_in_a_row"]),
    (
        "the oldest candidate lives but is wedged, paused or unwilling",
        &["the_oldest_candidate_lives_but_is_wedged"],
    ),
    (
        "a Go node is the oldest, or stands in the middle of the queue",
        &[
            "r6_a_go_node_that_is_the_oldest_is_never_deposed",
            "r6_a_go_node_in_the_middle_counts_for_no_rank_and_is_swept",
        ],
    ),
    (
        "a pause between receive and stamp; between check and effect",
        &[
            "r1_authority_counts_from_before_the_request_was_sent",
            "the_leader_pauses_between_check_and_effect",
        ],
    ),
    (
        "TAKE's answer is lost; an echo of an older attempt",
        &["r4_an_echo_counts_for_the_attempt_whose_n_it_shows_and_for_no_other"],
    ),
    (
        "a restored backup brings an old leader's key back",
        &[
            "a_restored_backup_brings_the_old_leaders_key_back",
            "a_take_of_the_lost_history_lands_beside_the_old_leaders_key",
            "r8_a_candidate_key_that_a_backup_put_behind_a_later_term_is_withdrawn",
        ],
    ),
    (
        "the restored leader's next beat gets just the revision at which a successor saw the record in the lost history",
        &[
            "a_beat_in_a_restored_store_gets_the_revision_that_a_successor_has_seen",
            "a_write_at_a_revision_that_was_there_before_it_was_sent_is_of_another_store",
        ],
    ),
    (
        "a backup is restored with its revisions bumped (the better way: terms go on growing)",
        &[
            "a_restored_backup_brings_the_old_leaders_key_back",
            "t14_a_held_key_that_a_backup_brought_back_ends_the_session",
        ],
    ),
    (
        "a plan is read late: the old owner starts after the shard was given on",
        &["a_plan_is_read_late_and_the_old_owner_starts_after_the_shard_was_given_on"],
    ),
    (
        "claim and plan cross",
        &[
            "claim_and_plan_cross",
            "a_claim_lands_after_the_plan_has_given_the_shard_to_another",
            "the_owner_claims_and_its_lease_is_revoked_while_a_plan_is_on_the_wire",
        ],
    ),
    (
        "a lease is revoked early; a deposed etcd leader answers keepalives",
        &["a_lease_is_revoked_early_while_a_deposed_leader_of_the_store_answers_keepalives"],
    ),
    ("the leader dies between drain and assign", &["the_leader_dies_between_drain_and_assign"]),
    (
        "the answer of a claim is lost",
        &["the_answer_of_a_claim_is_lost", "the_answer_of_a_first_claim_is_lost"],
    ),
    (
        "a held key vanishes while the plan says nobody",
        &["a_held_key_vanishes_while_the_plan_says_nobody"],
    ),
    (
        "a node re-joins under its id while its old held key lives",
        &["r10_a_new_incarnation_keeps_no_shard_of_the_old_one"],
    ),
    (
        "a drain is called off while the owner releases",
        &[
            "a_drain_is_called_off_while_the_owner_releases",
            "a_plan_names_an_epoch_that_its_owner_has_released",
            "t13_an_epoch_that_was_released_is_never_claimed_again",
        ],
    ),
    (
        "an operator deletes or overwrites any key",
        &[
            "an_operator_overwrites_a_held_key",
            "the_leaders_candidate_key_is_deleted_while_it_is_cut_off",
            "r10_the_own_member_key_gone_from_the_view_ends_the_session",
            "t19_an_own_candidate_key_with_a_foreign_value_is_withdrawn_and_its_term_closed",
        ],
    ),
    (
        "an operator writes junk into a held key, or takes it off its lease",
        &[
            "t15_a_junk_held_key_is_as_good_as_gone_and_deleted_after_its_wait",
            "t15_a_held_key_that_was_taken_off_its_lease_is_as_good_as_gone_too",
        ],
    ),
    ("a late Put after a re-join or after a newer Put", &["a_late_put_after_a_newer_put"]),
    (
        "a Put that is answered only after the node has joined again",
        &["a_put_that_is_answered_after_the_node_has_joined_again_is_put_again"],
    ),
    (
        "a Put that a restored store answers at a smaller revision",
        &["a_put_that_a_restored_store_takes_at_a_smaller_revision_comes_back"],
    ),
    (
        "a Put that is answered after a STOP, or after a later Delete",
        &[
            "a_put_that_is_answered_after_a_stop_is_not_in_the_next_incarnation",
            "calls_for_one_key_take_effect_in_the_order_in_which_they_were_made",
        ],
    ),
    (
        "a late first Put after a Delete of its key",
        &[
            "a_late_put_whose_fate_was_unknown_does_not_come_after_a_delete",
            "a_late_copy_of_a_put_that_took_effect_does_not_come_after_a_delete",
        ],
    ),
    (
        "a leader's beats arrive and their answers come too late, or never",
        &[
            "r13_an_office_whose_answers_come_too_late_is_resigned_and_taken_again_only_when_healthy",
            "a_node_whose_link_stays_bad_makes_room_for_another",
        ],
    ),
    (
        "an owner's claims and checks arrive and their answers come too late, or never",
        &[
            "r14_an_owner_whose_checks_are_answered_too_late_gives_its_incarnation_up_blindly",
            "r16_a_lease_whose_renewals_are_not_answered_is_given_up",
            "a_node_whose_link_stays_bad_makes_room_for_another",
        ],
    ),
    (
        "a node that misses its claims is given the same shards again and again",
        &[
            "r15_a_node_that_did_not_claim_in_time_gets_one_shard_after_its_pause_and_then_its_share",
        ],
    ),
    (
        "\"am I still leader?\" by a transaction without operations",
        &["r11_every_request_that_only_checks_reads_through_the_quorum"],
    ),
    ("a wiped store begins its terms at 1 again", &["the_fence_grows_even_if_the_store_was_wiped"]),
];

/// Names of the functions below a `#[test]` or a similar attribute.
fn tests(sources: &Sources) -> Vec<&str> {
    let mut names = Vec::new();
    for (path, text) in &sources.files {
        if !has_extension(path, "rs") {
            continue;
        }
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            } else if let Some(from) = line.find("fn ")
                && is_test
            {
                names.extend(line[from + 3..].split('(').next());
                is_test = false;
            }
        }
    }
    names
}

/// Rules (R1 and on) and transactions (T1 and on) of `docs/protocol.md`.
fn rules(protocol: &str) -> Vec<String> {
    let rules = protocol.lines().filter_map(|line| line.strip_prefix("- **R"));
    let rules = rules.filter_map(|line| Some(format!("r{}", number(line)?)));
    let steps = protocol.lines().filter_map(|line| line.strip_prefix("| T"));
    rules.chain(steps.filter_map(|line| Some(format!("t{}", number(line)?)))).collect()
}

fn number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// First cells of the table of attacks.
fn attacks(protocol: &str) -> Vec<&str> {
    let (_, section) = protocol.split_once("\n## Attacks").expect("the section is there");
    let rows = section.lines().take_while(|line| !line.starts_with("## "));
    let rows = rows.filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.skip(2).collect()
}

/// Whether a test's name contains that rule.
fn is_about(name: &str, rule: &str) -> bool {
    name.split('_').any(|word| word == rule)
}

pub(crate) fn without_a_test(sources: &Sources) -> Vec<String> {
    let protocol = sources.files.iter().find(|(path, _)| path == "docs/protocol.md");
    let (_, protocol) = protocol.expect("docs/protocol.md is there");
    let tests = tests(sources);
    let (rules, attacks) = (rules(protocol), attacks(protocol));
    assert!(35 <= rules.len() && 40 <= attacks.len(), "the tables were not found");
    let missing = rules.iter().filter(|rule| !tests.iter().any(|name| is_about(name, rule)));
    let mut found: Vec<String> =
        missing.map(|rule| format!("no test is named {rule}_...")).collect();
    for row in &attacks {
        match ATTACKS.iter().find(|(attack, _)| attack == row) {
            None => found.push(format!("no test for the attack \"{row}\"")),
            Some((_, by)) => found.extend(
                by.iter()
                    .filter(|name| !tests.contains(name))
                    .map(|name| format!("there is no test {name}, for \"{row}\"")),
            ),
        }
    }
    let gone = ATTACKS.iter().filter(|(attack, _)| !attacks.contains(attack));
    found.extend(gone.map(|(attack, _)| format!("no such attack in the table: \"{attack}\"")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_one_by_its_attribute_and_is_about_what_it_names() {
        let sources = Sources::planted(&[(
            "src/a.rs",
            "#[test]\n#[cfg(unix)]\nfn t12_x() {}\nfn r1_y() {}\n#[tokio::test]\nasync fn b_r2() {}",
        )]);
        assert_eq!(tests(&sources), ["t12_x", "b_r2"]);
        assert!(is_about("t1_grant_t11_revoke", "t11") && !is_about("t11_revoke", "t1"));
    }
}
