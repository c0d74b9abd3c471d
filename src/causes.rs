//! An error and its causes, from the outside in.

use std::{error::Error, io, iter};

/// Returns the error and its causes. An `io::Error` that carries another error is followed by that one, which its
/// `source` leaves out.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |it| next(*it))
}

fn next<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

/// Returns the first error of a type among the error and its causes.
pub(crate) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|it| it.downcast_ref())
}

/// Texts of the error and its causes on one line, without repetitions.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    chain_after(error.to_string(), error)
}

/// The text, followed by those texts of the error and its causes that are not in it yet.
pub(crate) fn chain_after(mut text: String, error: &(dyn Error + 'static)) -> String {
    for cause in causes(error) {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Box<dyn Error + Send + Sync>,
    }

    fn nested() -> Layer {
        let refused = io::Error::from_raw_os_error(111);
        let carrier = io::Error::other(Layer { text: "connecting", source: refused.into() });
        Layer { text: "sending: connecting", source: carrier.into() }
    }

    #[test]
    fn a_cause_that_an_io_error_carries_is_found() {
        let error = nested();
        let os = causes(&error).filter_map(|it| it.downcast_ref::<io::Error>()?.raw_os_error());
        assert_eq!(os.collect::<Vec<_>>(), [111]);
        assert_eq!(find::<Layer>(&error).map(|it| it.text), Some("sending: connecting"));
        assert!(find::<std::fmt::Error>(&error).is_none());
    }

    #[test]
    fn each_text_of_a_chain_is_there_once() {
        let refused = io::Error::from_raw_os_error(111);
        let error = nested();
        assert_eq!(chain(&error), format!("sending: connecting: {refused}"));
        let after = chain_after("asking".to_owned(), &error);
        assert_eq!(after, format!("asking: sending: connecting: {refused}"));
    }
}
