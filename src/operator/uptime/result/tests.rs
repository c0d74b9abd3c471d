use super::*;

fn result() -> CheckResult {
    CheckResult {
        spec: SpecHash(u64::MAX),
        generation: Some(3),
        due_unix_ms: 1_000,
        ran_unix_ms: 1_001,
        epoch: ShardEpoch(i64::MAX),
        verdict: Verdict::Down,
        latency_us: Some(1500),
        certificate_expires: Some(UnixMs(5_000)),
        message: "refused".into(),
        failures: 2,
        after_unix_ms: Some(500),
    }
}

#[test]
fn a_result_survives_json_with_numbers_beyond_2_to_the_53() {
    let json = serde_json::to_string(&result()).unwrap();
    assert!(json.contains("\"epoch\":\"9223372036854775807\""), "{json}");
    assert_eq!(serde_json::from_str::<CheckResult>(&json).unwrap(), result());
}

#[test]
fn the_key_of_a_result_names_shard_and_check() {
    let check = CheckKey::new("web", "shop.example");
    let key = result_key(ShardId(17), &check);
    assert_eq!(key, "uptime/17/web/shop.example");
    assert_eq!(parse_result_key(&key), Some((ShardId(17), check)));
}

#[test]
fn other_keys_are_none_of_a_result() {
    for key in [
        "",
        "uptime",
        "uptime/",
        "uptime/x/a/b",
        "uptime/1/a",
        "uptime/1/a/B",
        "uptime/1/a/b/c",
        "up/1/a/b",
    ] {
        assert_eq!(parse_result_key(key), None, "{key}");
    }
}

#[test]
fn a_claim_of_another_spec_says_nothing_about_this_one() {
    let claim =
        Claim { spec: SpecHash(1), due_unix_ms: 5, told_unix_ms: None, failures: 0, proven: false };
    assert_eq!(Claim::known(Some(&claim), SpecHash(2)), Known::Nothing);
    assert_eq!(Claim::known(Some(&claim), SpecHash(1)), Known::Claimed(Slot(5)));
}
