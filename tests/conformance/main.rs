//! Cases that every node must pass, over each kind of node and store.
//!
//! [`cases`] and [`watches`] are for both kinds of nodes, [`clusters`] needs several nodes, [`faults`] injects
//! faults around the nodes, [`bad_links`] checks that one node's bad link does no harm to others, [`histories`]
//! checks watches when etcd compacts or is restored. Each area runs over a `ClusterNode` on a memory store, a
//! `ClusterNode` on a real etcd and, where it makes sense, a standalone one. The Go package's own cases are
//! named `case_` with their number; [`defects`] lists for each of its defects the test here, or the reason why
//! the defect cannot occur.

#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as the tests do")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

#[allow(dead_code, reason = "shared with other test binaries")]
#[path = "../support/kube.rs"]
mod kube;
#[path = "../support/mod.rs"]
mod support;

mod bad_links;
mod cases;
mod clusters;
mod defects;
mod faults;
mod histories;
mod leaks;
mod rig;
mod watches;

/// Defines a test per case and kind.
macro_rules! run {
    ($kind:ident, $area:ident: $($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::support::logs();
                let rig = $crate::rig::Rig::new($crate::rig::Kind::$kind, stringify!($name)).await;
                $crate::$area::$name(rig).await;
            }
        )*
    };
}

macro_rules! cases_of_all {
    ($kind:ident) => {
        run!($kind, cases:
            state_can_be_put_read_and_deleted,
            an_empty_value_is_not_a_missing_one,
            reserved_and_malformed_keys_are_refused,
            state_calls_without_a_session_say_so,
            get_cluster_takes_the_key_and_those_below_it,
            foreign_keys_are_skipped_and_counted,
            a_started_node_has_joined_and_leads_alone,
            a_node_can_be_started_again_after_a_stop,
            a_closed_node_says_so,
            a_stop_right_after_a_start_leaves_nothing_behind,
            a_panicking_routine_is_counted_and_loses_office,
            a_routine_that_overruns_is_cancelled_and_loses_office,
            a_routine_that_blocks_its_thread_loses_office,
            runs_never_overlap_and_late_ticks_are_skipped,
            a_leader_task_begins_and_ends_with_leadership,
            a_periodic_job_is_not_repeated_by_the_next_leader,
            fenced_writes_of_a_former_leader_are_refused,
            fenced_compare_and_set_finds_conflicts,
            of_many_claims_one_wins,
            all_shards_are_worked_on_by_a_lone_node,
            a_shard_write_of_a_former_owner_is_refused,
            status_shows_the_node_and_its_cluster,
            start_stop_cycles_leak_nothing,
        );
        run!($kind, watches:
            a_watch_tells_added_modified_and_deleted,
            a_watch_can_begin_with_what_is_there,
            an_undrained_watcher_blocks_nobody_and_is_told_that_it_lags,
            a_watch_ends_when_its_node_is_closed,
            a_watch_ends_when_its_node_is_dropped,
        );
    };
}

macro_rules! cases_of_clusters {
    ($kind:ident) => {
        run!($kind, clusters:
            case_2a_three_nodes_take_roles_and_one_leads,
            case_2b_both_routines_run,
            case_2c_get_nodes_is_the_same_from_each,
            case_2d_get_leader_from_a_follower,
            case_2e_each_node_has_its_own_state_and_get_cluster_has_all,
            case_2f_deleted_state_is_gone,
            case_2g_another_node_leads_after_the_leader_left,
            case_2h_a_joiner_follows_and_the_one_that_left_is_gone,
            case_2i_a_watch_shows_another_nodes_changes,
            the_keys_are_laid_out_as_the_go_package_has_them,
            a_second_node_with_a_live_id_is_refused_and_disturbs_nobody,
            a_joiner_with_another_tick_is_refused_and_was_never_a_candidate,
            an_adopting_joiner_runs_at_the_clusters_tick,
            the_tick_is_switched_when_all_nodes_offer_the_new_one,
            succession_is_first_come_first_served,
            an_idle_cluster_writes_only_beats,
            a_hundred_handovers_are_a_hundred_terms,
            a_leader_also_follows_if_it_was_built_so,
            shards_are_shared_and_move_without_two_owners,
            a_drained_node_has_no_shards_and_no_office,
            each_call_is_one_request,
            a_lease_is_renewed_by_one_alone_and_not_too_often,
            start_is_kept_over_sessions_and_roles_are_rewritten_at_each_change,
            clusters_in_one_store_are_strangers,
        );
        run!($kind, faults:
            a_cut_off_leader_stops_before_another_leads,
            losing_the_candidate_key_cancels_a_running_routine,
            lost_state_is_put_back_after_a_revoked_lease,
            a_put_that_is_answered_late_is_kept_over_a_lost_session,
            sessions_lost_again_and_again_are_regained,
            a_slow_store_costs_nobody_the_leadership,
            stop_returns_while_the_store_is_unreachable,
            a_stop_that_failed_leaves_no_ghost_once_the_node_is_back,
            calls_return_while_the_store_is_unreachable,
            a_restarted_id_does_not_lead_on_its_old_key,
            a_watch_survives_a_cut_with_nothing_lost_or_repeated,
            junk_under_every_key_stops_nobody,
            an_incarnation_that_is_proven_dead_is_ended_at_once,
            a_leader_between_two_ticks_leaves_cleanly_while_its_runtime_stands_still,
        );
    };
}

mod on_memory {
    cases_of_all!(Memory);
    cases_of_clusters!(Memory);
}

mod on_etcd {
    cases_of_all!(Etcd);
    cases_of_clusters!(Etcd);
    // Reads that overlap with writes need etcd: a store in memory answers in a single step.
    run!(Etcd, clusters: a_read_of_the_cluster_is_of_one_revision,);
    run!(Etcd, bad_links:
        a_leader_with_a_slow_link_makes_room,
        a_fast_leader_with_a_slow_link_makes_room,
        a_leader_that_hears_no_answers_makes_room,
        a_fast_leader_that_hears_no_answers_makes_room,
        an_owner_with_a_slow_link_makes_room,
        an_owner_that_hears_no_answers_makes_room,
        a_fast_owner_that_hears_no_answers_makes_room,
    );
}

mod on_kubernetes {
    cases_of_all!(Kubernetes);
    cases_of_clusters!(Kubernetes);
}

mod standalone {
    cases_of_all!(Standalone);
}
