//! Matches `expect.bodyMatches`: each expression is compiled once, and no match delays anything else.
//!
//! A match can take time proportional to the product of both lengths, expression and body: minutes for a
//! short expression. So a match is not one blocking call, but a walk over the bytes in slices, each on a
//! thread for blocking work. Between two slices other matches get the thread, and a match that is dropped
//! ends.
//!
//! # Invariants
//!
//! * A match holds a thread for about [`SLICE`] at a time, and all matches together use half of the
//!   processors.
//! * The cached compiled expressions use at most [`MOST_KEPT_BYTES`] over all checks of the process, and
//!   matches use a bounded amount of memory in addition.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    thread,
    time::Duration,
};

use regex_automata::{
    Input,
    hybrid::{LazyStateID, dfa},
    nfa::thompson::{self, WhichCaptures, pikevm::PikeVM},
    util::syntax,
};
use tokio::sync::Semaphore;

use super::Failure;
use crate::{clock, engine::BootTime, operator::uptime::value::Span};

#[cfg(test)]
mod tests;

/// Maximum size of one compiled expression.
const MOST_BYTES: usize = 1 << 20;
/// Maximum size of all cached expressions. The least recently used ones are evicted and compiled again.
const MOST_KEPT_BYTES: usize = 64 << 20;
/// Bytes that are counted per expression besides its states, and for a rejected expression.
const OVERHEAD_BYTES: usize = 1 << 10;
/// Maximum size of the lazily built states of one match.
const MOST_CACHE_BYTES: usize = 1 << 20;
/// Maximum number of concurrent matches; further ones wait.
const MOST_MATCHES: usize = 32;
/// How long a match runs before another one gets its turn.
const SLICE: Duration = Duration::from_millis(10);
/// Number of bytes between two readings of the clock. A byte takes 0.1 ms at worst.
const BYTES_PER_LOOK: usize = 64;
/// A match ends this long before the run's own timeout, whose message could not name the match as the reason.
const ENDS_BEFORE: Duration = Duration::from_millis(5);
/// Maximum cost of a match that cannot be cut into slices: bytes of the body times states.
const MOST_STEPS_AT_ONCE: usize = 1 << 28;

static KEPT: Mutex<Kept> = Mutex::new(Kept::new());
static MATCHES: Semaphore = Semaphore::const_new(MOST_MATCHES);
/// Number of matches that may run at one moment.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    Semaphore::new((thread::available_parallelism().map_or(1, usize::from) / 2).max(1))
});

/// Error of an expression that cannot be used; the text contains no part of the expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::operator::uptime) struct Unusable(Arc<str>);

/// An expression, compiled to an automaton.
pub(in crate::operator::uptime) struct Expression {
    dfa: dfa::DFA,
    bytes: usize,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A compiled expression, or the reason why it cannot be used.
type Usable = Result<Arc<Expression>, Unusable>;

/// Compiles the expression, or takes it from the cache. Compiling takes some milliseconds.
///
/// # Errors
///
/// [`Unusable`] with the reason if the expression cannot be used.
pub(in crate::operator::uptime) fn compiled(pattern: &str) -> Usable {
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let found = kept().get(pattern);
    found.unwrap_or_else(|| {
        let usable = Expression::new(pattern).map(Arc::new);
        kept().put(pattern, &usable, MOST_KEPT_BYTES);
        usable
    })
}

impl Expression {
    fn new(pattern: &str) -> Result<Self, Unusable> {
        let unusable = |why: &str| Unusable(why.into());
        if let Err(error) = syntax::parse(pattern) {
            // The error shows the expression over several lines; only its last line is the reason.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            return Err(unusable(why));
        }
        let dfa = dfa::Builder::new()
            .configure(
                dfa::Config::new()
                    .unicode_word_boundary(true)
                    .cache_capacity(MOST_CACHE_BYTES)
                    .skip_cache_capacity_check(true),
            )
            .thompson(
                thompson::Config::new()
                    .nfa_size_limit(Some(MOST_BYTES))
                    .which_captures(WhichCaptures::None),
            )
            .build(pattern)
            .map_err(|_| {
                unusable(
                    "it is too large when compiled: use smaller repetitions, or `(?-u)` for ASCII",
                )
            })?;
        let bytes = dfa.get_nfa().memory_usage();
        Ok(Self { dfa, bytes })
    }
}

/// Cache of compiled and rejected expressions, with the time of their last use.
#[derive(Debug)]
struct Kept {
    by_pattern: BTreeMap<Arc<str>, (Usable, u64)>,
    bytes: usize,
    /// Logical clock of the cache: incremented by each look-up.
    asked: u64,
}

impl Kept {
    const fn new() -> Self {
        Self { by_pattern: BTreeMap::new(), bytes: 0, asked: 0 }
    }

    fn get(&mut self, pattern: &str) -> Option<Usable> {
        self.asked += 1;
        let (usable, last) = self.by_pattern.get_mut(pattern)?;
        *last = self.asked;
        Some(usable.clone())
    }

    /// Adds one entry, and evicts the least recently used ones until the cache fits into `most_bytes`.
    fn put(&mut self, pattern: &str, usable: &Usable, most_bytes: usize) {
        self.remove(pattern);
        let needed = bytes_of(pattern, usable);
        while self.bytes + needed > most_bytes {
            let oldest = self.by_pattern.iter().min_by_key(|(_, (_, last))| *last);
            let Some(oldest) = oldest.map(|(pattern, _)| Arc::clone(pattern)) else { break };
            self.remove(&oldest);
        }
        self.asked += 1;
        self.bytes += needed;
        self.by_pattern.insert(pattern.into(), (usable.clone(), self.asked));
    }

    fn remove(&mut self, pattern: &str) {
        if let Some((pattern, (usable, _))) = self.by_pattern.remove_entry(pattern) {
            self.bytes -= bytes_of(&pattern, &usable);
        }
    }
}

fn bytes_of(pattern: &str, usable: &Usable) -> usize {
    OVERHEAD_BYTES + pattern.len() + usable.as_ref().map_or(0, |expression| expression.bytes)
}

/// Whether the text contains a match of the expression.
///
/// # Errors
///
/// A [`Failure`] if there is no result by `ends_by`: the expression takes too long, or this node has no time.
///
/// # Cancel safety
///
/// If dropped, the match ends with its current slice.
pub(super) async fn is_match(
    pattern: &str,
    text: String,
    ends_by: BootTime,
) -> Result<bool, Failure> {
    let left = ends_by.since(clock::boot_now()).saturating_sub(ENDS_BEFORE);
    let mut spent = Duration::ZERO;
    let matched = tokio::time::timeout(left, in_slices(pattern, text, &mut spent)).await;
    match matched {
        Ok(matched) => matched,
        Err(_) if spent >= left / 2 => Err(Failure::new(format_args!(
            "the body could not be matched within the timeout: `{pattern}` takes too long in it"
        ))),
        Err(_) => Err(Failure::own(format_args!(
            "the body was not matched within the timeout: this node had {} for it, beside others",
            Span(spent)
        ))),
    }
}

async fn in_slices(pattern: &str, text: String, spent: &mut Duration) -> Result<bool, Failure> {
    let _match = MATCHES.acquire().await;
    let mut search = Search::New { pattern: pattern.to_owned(), text };
    loop {
        let turn = TURNS.acquire().await;
        let began = clock::boot_now();
        let slice = tokio::task::spawn_blocking(move || search.go_on(began + SLICE)).await;
        drop(turn);
        *spent += clock::boot_now().since(began);
        match slice {
            Ok(Step::Ended(matched)) => return matched.map_err(Failure::own),
            Ok(Step::GoesOn(rest)) => search = rest,
            Err(_) => return Err(Failure::own("the match panicked, which is a bug")),
        }
    }
}

/// A match in progress, between two slices.
enum Search {
    New { pattern: String, text: String },
    Walk(Box<Walk>),
}

/// Walk of the automaton over the text, byte by byte.
struct Walk {
    expression: Arc<Expression>,
    cache: dfa::Cache,
    state: LazyStateID,
    text: String,
    at: usize,
}

/// Outcome of one slice of a match.
enum Step {
    GoesOn(Search),
    Ended(Result<bool, String>),
}

impl Search {
    fn go_on(self, until: BootTime) -> Step {
        match self {
            Self::New { pattern, text } => match Walk::new(&pattern, text) {
                // Compiling has used up this slice.
                Ok(walk) => Step::GoesOn(Self::Walk(Box::new(walk))),
                Err(why) => Step::Ended(Err(why)),
            },
            Self::Walk(walk) => walk.go_on(until),
        }
    }
}

impl Walk {
    fn new(pattern: &str, text: String) -> Result<Self, String> {
        let expression = compiled(pattern).map_err(|error| error.to_string())?;
        let mut cache = expression.dfa.create_cache();
        let state = expression
            .dfa
            .start_state_forward(&mut cache, &Input::new(&text))
            .map_err(|error| error.to_string())?;
        Ok(Self { expression, cache, state, text, at: 0 })
    }

    fn go_on(mut self: Box<Self>, until: BootTime) -> Step {
        let Self { expression, cache, state, text, at } = &mut *self;
        let dfa = &expression.dfa;
        while *at < text.len() {
            let look = text.len().min(*at + BYTES_PER_LOOK);
            for byte in &text.as_bytes()[*at..look] {
                match dfa.next_state(cache, *state, *byte) {
                    Ok(next) => *state = next,
                    Err(error) => return Step::Ended(Err(error.to_string())),
                }
                if state.is_tagged() {
                    if state.is_match() {
                        return Step::Ended(Ok(true));
                    }
                    if state.is_dead() {
                        return Step::Ended(Ok(false));
                    }
                    if state.is_quit() {
                        return Step::Ended(at_once(expression, text));
                    }
                }
            }
            *at = look;
            if until <= clock::boot_now() {
                return Step::GoesOn(Search::Walk(self));
            }
        }
        Step::Ended(match dfa.next_eoi_state(cache, *state) {
            Ok(last) => Ok(last.is_match()),
            Err(error) => Err(error.to_string()),
        })
    }
}

/// Runs the whole match at once, if that is cheap enough: a Unicode `\b` needs more than one byte of context,
/// which the walk does not have.
fn at_once(expression: &Expression, text: &str) -> Result<bool, String> {
    let nfa = expression.dfa.get_nfa();
    if nfa.states().len().saturating_mul(text.len()) > MOST_STEPS_AT_ONCE {
        return Err(
            "the body has letters beyond ASCII and is too large to look for `\\b` between them: \
             write `(?-u:\\b)` in bodyMatches"
                .to_owned(),
        );
    }
    let vm = PikeVM::builder().build_from_nfa(nfa.clone()).map_err(|error| error.to_string())?;
    Ok(vm.is_match(&mut vm.create_cache(), text))
}
