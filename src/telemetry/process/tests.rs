use super::*;

#[test]
fn a_command_with_brackets_and_blanks_does_not_shift_the_fields() {
    let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 12345 8192 99 0";
    let ticks = ticks_per_second();
    let expected = Usage {
        cpu_seconds: 200.0 / ticks,
        threads: 7.0,
        start_ticks: 12345.0,
        virtual_bytes: 8192.0,
        resident_pages: 99.0,
    };
    assert_eq!(parse_stat(stat), Some(expected));
    assert_eq!(parse_stat("42 (cut) S 1"), None);
    assert_eq!(parse_stat(""), None);
}

#[test]
fn this_process_shows_plausible_numbers() {
    let ((), collectors) = Build::made_by(process);
    let families = collectors[0].collect();
    let value = |name: &str| {
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric()[0].get_gauge().get_value()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_threads") >= 1.0);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    let now = crate::clock::unix_ms() as f64 / 1e3;
    let age = now - value("process_start_time_seconds");
    assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
}
