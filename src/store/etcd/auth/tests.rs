use super::*;

#[test]
fn a_jwt_tells_how_long_it_lasts_and_other_tokens_do_not() {
    // {"alg":"none"}.{"exp":4102444800}: the first day of 2100.
    let far = lifetime_of("eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.x").unwrap();
    assert_eq!(far, Duration::from_secs(86_400));
    // {"exp":1}: long over, by a clock that is off; not asked for again at once all the same.
    assert_eq!(lifetime_of("e30.eyJleHAiOjF9.x"), Some(Duration::from_millis(1500)));
    for other in ["vGfTkPmXuUcGzgZd.42", "", "a.b.c", "e30.e30.x", "....", "e30.!!.x"] {
        assert_eq!(lifetime_of(other), None, "{other}");
    }
}

#[test]
fn base64_for_urls_is_read() {
    assert_eq!(base64url("aGVsbG8").unwrap(), b"hello");
    assert_eq!(base64url("-_-_").unwrap(), [0xfb, 0xff, 0xbf]);
    assert_eq!(base64url("a+b"), None);
}
