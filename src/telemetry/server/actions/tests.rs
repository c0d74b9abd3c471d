use super::*;

fn request(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

const OURS: (&str, &str) = (HEADER, "1");

#[test]
fn own_page_and_command_line_may_act() {
    for own in [
        &[OURS, ("host", "127.0.0.1:8080")][..],
        &[OURS, ("host", "[::1]:8080"), ("origin", "http://[::1]:8080")],
        &[OURS, ("host", "LOCALHOST"), ("origin", "http://localhost")],
        &[OURS, ("host", "localhost:80"), ("sec-fetch-site", "same-origin")],
        &[OURS, ("host", "status.shop.example"), ("origin", "https://status.shop.example")],
        // A proxy that sends the address of the pod as host.
        &[OURS, ("host", "10.0.0.1:8080"), ("origin", "https://status.shop.example")],
    ] {
        assert_eq!(
            is_own_page(&request(own), &["status.shop.example".to_owned()]),
            Ok(()),
            "{own:?}"
        );
    }
}

#[test]
fn foreign_pages_may_not_act() {
    for foreign in [
        &[("host", "127.0.0.1:8080")][..],
        &[OURS, ("host", "127.0.0.1:8080"), ("origin", "http://evil.example")],
        &[OURS, ("host", "127.0.0.1:8080"), ("origin", "null")],
        &[OURS, ("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:9999")],
        &[OURS, ("host", "localhost"), ("sec-fetch-site", "cross-site")],
        &[OURS, ("host", "localhost"), ("sec-fetch-site", "same-site")],
        // A rebound name: for the browser page and server have the same origin, but the name is not ours.
        &[OURS, ("host", "evil.example:8080"), ("origin", "http://evil.example:8080")],
        &[OURS, ("host", "127.0.0.1.evil.example")],
        &[OURS],
    ] {
        assert!(is_own_page(&request(foreign), &[]).is_err(), "{foreign:?}");
    }
}
