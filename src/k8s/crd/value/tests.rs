use super::*;

fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[test]
fn a_span_is_written_as_it_is_read() {
    for text in ["0s", "500ms", "30s", "1m30s", "2h", "24h", "1h1m1s1ms"] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span.to_string(), text);
        assert_eq!(read::<Span>(&format!("\"{text}\"")), Ok(span));
    }
}

#[test]
fn a_span_without_a_unit_is_refused_with_the_way_to_write_it() {
    let error = read::<Span>("10").unwrap_err();
    assert!(error.contains("`10`") && error.contains("like `30s`"), "{error}");
    let error = read::<Span>("\"soon\"").unwrap_err();
    assert!(error.contains("\"soon\"") && error.contains("like `30s`"), "{error}");
}

#[test]
fn a_span_is_rounded_up_and_told_in_its_longest_units() {
    assert_eq!(Span(Duration::from_micros(1)).to_string(), "1ms");
    assert_eq!("90s".parse::<Span>().unwrap().to_string(), "1m30s");
    assert_eq!("99999h".parse::<Span>().unwrap().to_string(), "99999h");
}

#[test]
fn a_span_is_read_exactly_where_the_schema_takes_it() {
    let schema = regex::Regex::new(SPAN).unwrap();
    for text in [
        "",
        "1",
        "s",
        "1s",
        "1m30s",
        "30s1m",
        "5ms",
        "5m5ms",
        "99999h",
        "100000h",
        "1.5s",
        "-1s",
        "+1s",
        "1d",
        "1day",
        "1 s",
        " 1s",
        "1s ",
        "1S",
        "1h1h1h1h",
        "1h1h1h1h1h",
        "1us",
        "1s\n",
        "\u{661}s",
        "0h",
    ] {
        assert_eq!(text.parse::<Span>().is_ok(), schema.is_match(text), "{text:?}");
    }
}

#[test]
fn a_time_is_written_as_it_is_read() {
    let time = UnixMs(1_772_366_400_123);
    assert_eq!(time.to_string(), "2026-03-01T12:00:00.123Z");
    assert_eq!(time.to_string().parse::<UnixMs>().unwrap(), time);
}

#[test]
fn a_time_beyond_what_rfc_3339_can_say_is_cut_and_does_not_panic() {
    assert_eq!(UnixMs(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
}
