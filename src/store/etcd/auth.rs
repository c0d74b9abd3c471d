//! The token that calls carry, when etcd has users.
//!
//! Only one task logs in; a call whose token is refused asks this task for a login and waits. A token that
//! contains its expiry time (JWT) is renewed before it expires; etcd's simple tokens stay valid
//! while they are used.
//!
//! The most important rule: etcd hashes the password at every login, and a quorum agrees on the login, so
//! the pauses between useless logins grow ([`pace`]).

mod pace;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use http::HeaderValue;
use tokio::sync::{Notify, watch};

use self::pace::Pace;

use super::{
    config::Password,
    errors::{Verdict, classify},
    link::TokenHeader,
    pool::{Pool, Tried},
};
use crate::clock;

/// Timeout of a login: a login hashes the password, which costs etcd tens of milliseconds of a core, on
/// purpose.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Part of etcd's answer to a login while authentication is off.
const NOT_ENABLED: &str = "authentication is not enabled";

/// Result of a login that etcd answered.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Login with a token, and the remaining lifetime of the token if it is known.
    Token(Option<Duration>),
    /// Login without a token: etcd has authentication off, and calls need no token.
    NotNeeded,
    /// etcd does not accept the name or password, or there is no password.
    Refused,
}

/// State of the latest login.
#[derive(Clone, Debug, Default)]
struct Login {
    /// Number of logins that were answered.
    version: u64,
    /// Error message of etcd if it refused the login.
    refused: Option<String>,
}

/// Token and login of one user.
pub(super) struct Auth {
    user: String,
    password: Password,
    header: watch::Sender<Option<HeaderValue>>,
    login: watch::Sender<Login>,
    wanted: Notify,
    wanted_above: AtomicU64,
}

impl Auth {
    pub(super) fn new(user: String, password: Password) -> Self {
        Self {
            user,
            password,
            header: watch::Sender::new(None),
            login: watch::Sender::default(),
            wanted: Notify::new(),
            wanted_above: AtomicU64::new(0),
        }
    }

    /// Header that links add to their requests.
    pub(super) fn header(&self) -> TokenHeader {
        self.header.subscribe()
    }

    /// Number of the login that the token of a call made now comes from.
    pub(super) fn version(&self) -> u64 {
        self.login.borrow().version
    }

    /// Error message of etcd if the login `version` was refused and is still the latest.
    pub(super) fn refused_at(&self, version: u64) -> Option<String> {
        let login = self.login.borrow();
        login.refused.clone().filter(|_| login.version == version)
    }

    /// Asks for a login later than `version`, without waiting.
    pub(super) fn want_after(&self, version: u64) {
        self.wanted_above.fetch_max(version + 1, SeqCst);
        self.wanted.notify_one();
    }

    /// Waits for a login later than the login `version`, whose token etcd refused.
    ///
    /// # Errors
    ///
    /// The error message of etcd if it refused the new login.
    pub(super) async fn renewed(&self, version: u64) -> Result<(), String> {
        let mut login = self.login.subscribe();
        self.want_after(version);
        // The sender lives as long as `self`, so the wait cannot fail.
        match login.wait_for(|login| login.version > version).await {
            Ok(login) => login.refused.clone().map_or(Ok(()), Err),
            Err(_) => Err("the store was closed".to_owned()),
        }
    }

    /// Logs in, and again on request or when a token is about to end. Never returns.
    pub(super) async fn keep_logged_in(self: Arc<Self>, pool: Arc<Pool>) {
        let mut pace = Pace::default();
        loop {
            let ended = self.log_in(&pool, &mut pace).await;
            let at = clock::boot_now();
            if ended == Ended::Refused {
                self.after_refusal(pace.refused()).await;
            }
            let renew = async {
                match ended {
                    Ended::Token(Some(lifetime)) => tokio::time::sleep(lifetime * 2 / 3).await,
                    Ended::Token(None) | Ended::NotNeeded | Ended::Refused => {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let asked = async {
                while self.version() >= self.wanted_above.load(SeqCst) {
                    self.wanted.notified().await;
                }
            };
            tokio::select! {
                biased;
                // Cancel safe: the request stays in `wanted_above`.
                () = asked => {
                    if ended != Ended::Refused {
                        // etcd has invalidated the result of this login.
                        tokio::time::sleep(pace.taken_back(clock::boot_now().since(at))).await;
                    }
                }
                () = renew => {}
            }
        }
    }

    /// Waits before a refused login is retried, or until the password has changed.
    async fn after_refusal(&self, pause: Duration) {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let refused = self.password().await;
        let until = clock::boot_now() + pause;
        loop {
            let left = until.since(clock::boot_now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
            if self.password().await != refused {
                return;
            }
        }
    }

    /// Logs in at one member after the other until one answers.
    async fn log_in(&self, pool: &Pool, pace: &mut Pace) -> Ended {
        let mut tried = Tried::default();
        let mut last = None;
        loop {
            let Some(member) = pool.choose(tried) else {
                tried = Tried::default();
                let pause = pace.unanswered();
                if pace.is_first_unanswered() {
                    let error = last.take();
                    tracing::warn!(user = %self.user, error, "login to etcd failed, retrying");
                }
                tokio::time::sleep(pause).await;
                continue;
            };
            let password = match self.password().await {
                Ok(password) => password,
                Err(problem) => {
                    self.refused(problem);
                    return Ended::Refused;
                }
            };
            let link = pool.link(member);
            let mut auth = link.auth();
            let asking = auth.authenticate(self.user.clone(), password);
            let verdict = match tokio::time::timeout(LOGIN_TIMEOUT, asking).await {
                Ok(Ok(answer)) => {
                    pool.metrics().logins.with_label_values(&["accepted"]).inc();
                    pace.answered();
                    return self.accepted(answer.token());
                }
                Ok(Err(error)) => classify(&error),
                Err(_) => Verdict::NotServing("no answer to a login".to_owned()),
            };
            match verdict {
                Verdict::Denied(text) | Verdict::Reauthenticate(text)
                    if text.contains(NOT_ENABLED) =>
                {
                    // As in etcdctl: calls continue without a token. If authentication is turned on later,
                    // etcd refuses the calls, and that leads to a login.
                    if self.header.borrow().is_some() || self.version() == 0 {
                        tracing::warn!(user = %self.user, "etcd has authentication off, the user is not needed");
                    }
                    pace.answered();
                    self.ended(None, None);
                    return Ended::NotNeeded;
                }
                Verdict::Denied(text) | Verdict::Reauthenticate(text) => {
                    pool.metrics().logins.with_label_values(&["refused"]).inc();
                    pace.answered();
                    self.refused(text);
                    return Ended::Refused;
                }
                other => {
                    tracing::debug!(error = ?other, "a login failed");
                    last = Some(other.into_text());
                    tried.insert(member);
                }
            }
        }
    }

    fn accepted(&self, token: &str) -> Ended {
        let Ok(mut header) = HeaderValue::from_str(token) else {
            self.refused("etcd's token is not a valid header".to_owned());
            return Ended::Refused;
        };
        header.set_sensitive(true);
        if self.login.borrow().refused.is_some() {
            tracing::info!(user = %self.user, "etcd accepts the login");
        }
        self.ended(Some(header), None);
        Ended::Token(lifetime_of(token))
    }

    /// Logs the first refusal, and each one with a different message.
    fn refused(&self, text: String) {
        if self.login.borrow().refused.as_ref() != Some(&text) {
            tracing::error!(user = %self.user, error = %text, "etcd refused the login");
        }
        self.ended(None, Some(text));
    }

    fn ended(&self, token: Option<HeaderValue>, refused: Option<String>) {
        // The header first: calls that `login` wakes send this header.
        self.header.send_replace(token);
        self.login.send_modify(|login| {
            login.version += 1;
            login.refused = refused;
        });
    }

    async fn password(&self) -> Result<String, String> {
        match &self.password {
            Password::Plain(password) => Ok(password.clone()),
            Password::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(error) => Err(format!(
                    "the password file {} cannot be read ({error}): give a file that this process \
                     may read",
                    path.display()
                )),
            },
        }
    }
}

/// Remaining lifetime of a JWT; `None` for a token of another kind.
fn lifetime_of(token: &str) -> Option<Duration> {
    let payload = token.split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&base64url(payload)?).ok()?;
    let ends = claims.get("exp")?.as_f64()?;
    let now = clock::wall_now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    // A wrong clock, here or on the server, must cause neither a storm of logins nor a panic.
    Some(Duration::from_secs_f64((ends - now).clamp(1.5, 86_400.0)))
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut buffer, mut bits) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        buffer = (buffer << 6) | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
