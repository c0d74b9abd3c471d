use crate::{
    engine::{Change, Leader, LeaseId, Term, WorkType},
    k8s::{
        crd::{ElectionStatus, election::ElectionLeader, value::UnixMs},
        fence::ElectionRef,
    },
};

use super::{kubernetes::compared, *};
use crate::app::report::tests::{id, with_a_retired_work_type};

#[test]
fn versions_with_stale_reads_are_told_from_mended_ones() {
    let stale = |version| is_stale_reader(version);
    assert!(stale("3.4.30") && stale("3.5.27") && stale("3.6.8"));
    assert!(!stale("3.5.28") && !stale("3.6.9") && !stale("3.7.3") && !stale("4.0.0-rc.1"));
    assert!(!stale("unknown"));
}

#[test]
fn a_work_type_that_nobody_offers_is_named_and_is_no_warning() {
    let mut view = with_a_retired_work_type();
    let finding = of_shards(&view);
    assert_eq!(
        (finding.verdict, &*finding.says),
        (Verdict::Warning, "1 are held by nobody just now")
    );
    view.apply(Change::Plan(WorkType::new("checks"), None));
    let finding = of_shards(&view);
    let says = "every shard is held, but for old: no node offers it";
    assert_eq!((finding.verdict, &*finding.says), (Verdict::Ok, says));
}

#[test]
fn an_election_that_names_another_leader_than_etcd_fails() {
    let place = ElectionRef { namespace: "n".into(), cluster: "shop".into() };
    let leader =
        |id, term| Leader { id, lease: LeaseId(1), term: Term(term), d: None, suspended: false };
    let status = ElectionStatus {
        leader: Some(ElectionLeader { node: 1, name: "shop-1".into(), ..Default::default() }),
        term: Some(7),
        reported_at: Some(UnixMs(100_000)),
        ..ElectionStatus::default()
    };
    let of = |leader, now| compared(&place, &status, leader, now);
    let agrees = of(Some(leader(id(1), 7)), 101_000);
    assert_eq!((agrees.verdict, &*agrees.says), (Verdict::Ok, "n/shop says that shop-1 leads"));
    for (other, now) in [(leader(id(1), 9), 101_000), (leader(id(2), 7), 101_000)] {
        let finding = of(Some(other), now);
        assert_eq!(finding.verdict, Verdict::Failed);
        assert!(finding.says.contains("but the store says that node"), "{finding:?}");
    }
    // The same leader, but the `Election` was last written long ago.
    assert_eq!(of(Some(leader(id(1), 7)), 300_000).verdict, Verdict::Failed);
    let nobody = of(None, 300_000);
    assert_eq!(nobody.verdict, Verdict::Warning);
    assert!(nobody.says.contains("does not know who leads"), "{nobody:?}");
    assert_eq!(of(None, 101_000).verdict, Verdict::Warning);
}

fn member() -> MemberStatus {
    MemberStatus {
        endpoint: "http://e:2379".into(),
        version: "3.7.3".into(),
        cluster: 0xa,
        leads: true,
        is_learner: false,
        db_bytes: 0,
        db_in_use_bytes: 0,
        db_quota_bytes: 0,
        alarms: Vec::new(),
    }
}

#[test]
fn space_is_judged_by_the_quota() {
    let of = |size: u64, used: u64, quota: u64| {
        let (db_bytes, db_in_use_bytes) = (size << 20, used << 20);
        of_member(Ok(MemberStatus {
            db_bytes,
            db_in_use_bytes,
            db_quota_bytes: quota << 20,
            ..member()
        }))
    };
    let young = of(2, 2, 2048);
    assert_eq!(young.verdict, Verdict::Ok);
    assert!(young.says.ends_with("leads, 2 MiB of 2 GiB quota (2 MiB in use)"), "{young:?}");
    let full = of(1700, 1500, 2048);
    assert_eq!(full.verdict, Verdict::Warning);
    assert!(full.remedy.as_ref().is_some_and(|it| it.contains("compact")), "{full:?}");
    let wasted = of(1700, 20, 2048);
    assert_eq!(wasted.verdict, Verdict::Warning);
    assert!(wasted.remedy.as_ref().is_some_and(|it| it.contains("defrag")), "{wasted:?}");
    assert_eq!(of(1600, 1600, 2048).verdict, Verdict::Ok);
    let untold = of(2, 2, 0);
    assert_eq!(untold.verdict, Verdict::Ok);
    assert!(untold.says.contains("2 MiB large"), "{untold:?}");
}

#[test]
fn endpoints_of_two_etcd_clusters_fail_the_check_and_both_are_named() {
    let of = |endpoint: &str, cluster| {
        Ok(MemberStatus { endpoint: endpoint.into(), cluster, ..member() })
    };
    let down = || Err(StoreError::LeaseNotFound);
    assert_eq!(of_clusters(&[of("http://a", 0xa), down(), of("http://b", 0xa)]), None);
    let finding = of_clusters(&[of("http://a", 0xa), of("http://b", 0xb)]).unwrap();
    assert_eq!(finding.verdict, Verdict::Failed);
    let both = "http://a of cluster a; http://b of cluster b";
    assert!(finding.says.ends_with(both), "{finding:?}");
}

#[test]
fn an_alarm_fails_the_check_and_names_the_remedy() {
    let finding = of_member(Ok(MemberStatus { alarms: vec!["NOSPACE".into()], ..member() }));
    assert_eq!(finding.verdict, Verdict::Failed);
    assert!(finding.says.contains("NOSPACE") && finding.remedy.is_some());
}
