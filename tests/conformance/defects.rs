//! The test for each defect of the Go package, or the reason why the defect cannot occur here.

use std::{fs, path::Path};

/// A defect, and either the test that shows its absence or the reason.
const DEFECTS: &[(&str, Shown)] = &[
    ("B1", Test("faults::a_cut_off_leader_stops_before_another_leads")),
    ("B2", Test("faults::losing_the_candidate_key_cancels_a_running_routine")),
    ("B3", Test("cases::fenced_writes_of_a_former_leader_are_refused")),
    ("B4", Test("faults::a_restarted_id_does_not_lead_on_its_old_key")),
    ("B5", Test("clusters::a_second_node_with_a_live_id_is_refused_and_disturbs_nobody")),
    ("B6", Test("faults::lost_state_is_put_back_after_a_revoked_lease")),
    ("B7", Test("cases::of_many_claims_one_wins")),
    ("B8", Test("cases::a_panicking_routine_is_counted_and_loses_office")),
    ("B9", Test("cases::a_routine_that_overruns_is_cancelled_and_loses_office")),
    ("B10", Test("clusters::a_read_of_the_cluster_is_of_one_revision")),
    ("B11", Test("faults::a_slow_store_costs_nobody_the_leadership")),
    ("B12", Test("clusters::an_idle_cluster_writes_only_beats")),
    ("B13", Test("clusters::a_hundred_handovers_are_a_hundred_terms")),
    (
        "B14",
        Reason("one engine decides, on one thread: no campaigners can race, nor data in safe Rust"),
    ),
    ("B15", Test("clusters::a_joiner_with_another_tick_is_refused_and_was_never_a_candidate")),
    ("B16", Test("cases::reserved_and_malformed_keys_are_refused")),
    ("B17", Test("clusters::case_2g_another_node_leads_after_the_leader_left")),
    ("B18", Test("clusters::a_leader_also_follows_if_it_was_built_so")),
    ("B19", Test("faults::sessions_lost_again_and_again_are_regained")),
    ("B20", Test("faults::a_stop_that_failed_leaves_no_ghost_once_the_node_is_back")),
    ("B21", Test("cases::a_stop_right_after_a_start_leaves_nothing_behind")),
    ("B22", Test("faults::stop_returns_while_the_store_is_unreachable")),
    ("B23", Test("faults::calls_return_while_the_store_is_unreachable")),
    ("B24", Test("watches::an_undrained_watcher_blocks_nobody_and_is_told_that_it_lags")),
    ("B25", Elsewhere("store/etcd/faults.rs", "a_half_open_connection_is_replaced")),
    (
        "B26",
        Elsewhere(
            "store/etcd/faults.rs",
            "a_member_without_quorum_is_left_though_it_accepts_calls",
        ),
    ),
    ("B27", Elsewhere("process/cluster.rs", "an_idle_leader_does_not_spin")),
    (
        "B28",
        Elsewhere(
            "conformance/leaks.rs",
            "a_thousand_calls_an_outage_and_re_joins_under_a_narrow_role_cost_no_connection",
        ),
    ),
    ("B29", Test("clusters::each_call_is_one_request")),
    ("B30", Test("clusters::a_lease_is_renewed_by_one_alone_and_not_too_often")),
    (
        "B31",
        Elsewhere(
            "process/cluster.rs",
            "sigterm_hands_over_at_once_leaves_nothing_behind_and_exits_with_0",
        ),
    ),
    ("B32", Test("faults::a_watch_survives_a_cut_with_nothing_lost_or_repeated")),
    ("B33", Test("watches::a_watch_can_begin_with_what_is_there")),
    ("B34", Test("cases::a_node_can_be_started_again_after_a_stop")),
    ("B35", Test("cases::a_started_node_has_joined_and_leads_alone")),
    ("B36", Test("cases::state_calls_without_a_session_say_so")),
    ("B37", Test("cases::an_empty_value_is_not_a_missing_one")),
    ("B38", Test("clusters::start_is_kept_over_sessions_and_roles_are_rewritten_at_each_change")),
    ("B39", Test("clusters::clusters_in_one_store_are_strangers")),
];

use Shown::{Elsewhere, Reason, Test};

enum Shown {
    /// Area and name of a case of this suite.
    Test(&'static str),
    /// File below `tests/` and name of a test of another suite.
    Elsewhere(&'static str, &'static str),
    Reason(&'static str),
}

#[test]
fn every_defect_has_a_test_that_exists_or_a_reason() {
    let sources = [
        ("cases", include_str!("cases.rs")),
        ("clusters", include_str!("clusters.rs")),
        ("faults", include_str!("faults.rs")),
        ("watches", include_str!("watches.rs")),
    ];
    let main = include_str!("main.rs");
    for (number, (defect, shown)) in (1..).zip(DEFECTS) {
        assert_eq!(*defect, format!("B{number}"));
        match shown {
            Test(path) => {
                let (area, name) = path.split_once("::").unwrap();
                let (_, source) = sources.iter().find(|(name, _)| *name == area).unwrap();
                assert!(source.contains(&format!("pub async fn {name}(")), "{defect}: {path}");
                assert!(main.contains(&format!("{name},")), "{defect}: {path} is not run");
            }
            Elsewhere(file, name) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
                let source = fs::read_to_string(path).unwrap();
                assert!(source.contains(&format!("async fn {name}()")), "{defect}: {file}: {name}");
            }
            Reason(why) => assert!(20 < why.len(), "{defect}"),
        }
    }
    assert_eq!(DEFECTS.len(), 39);
}
