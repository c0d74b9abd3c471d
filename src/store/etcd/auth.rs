//! The token that calls carry, when etcd has users.
//!
//! One task logs in; whoever finds the token refused asks it and waits. A token that says when it ends
//! (JWT) is renewed before it does; etcd's simple ones live on while they are used.
//!
//! The one rule: etcd hashes the password at every login and agrees on it in a quorum, so logins that
//! lead nowhere come ever more seldom ([`pace`]).

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

/// A login hashes the password, which takes etcd tens of milliseconds of a core, on purpose.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Part of etcd's answer to a login while authentication is off.
const NOT_ENABLED: &str = "authentication is not enabled";

/// How a login ended that etcd answered.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// With a token, which lasts so long if that is known.
    Token(Option<Duration>),
    /// Without one: etcd has authentication off, and calls need none.
    NotNeeded,
    /// etcd does not accept name or password, or there is no password.
    Refused,
}

/// How the latest login ended.
#[derive(Clone, Debug, Default)]
struct Login {
    /// Counts logins that were answered.
    version: u64,
    /// What etcd said if it refused.
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

    /// What links put into their requests.
    pub(super) fn header(&self) -> TokenHeader {
        self.header.subscribe()
    }

    /// Which login the token of a call made now comes from.
    pub(super) fn version(&self) -> u64 {
        self.login.borrow().version
    }

    /// What etcd said if that login was refused and none has been answered since.
    pub(super) fn refused_at(&self, version: u64) -> Option<String> {
        let login = self.login.borrow();
        login.refused.clone().filter(|_| login.version == version)
    }

    /// Asks for a login later than `version`, without waiting.
    pub(super) fn want_after(&self, version: u64) {
        self.wanted_above.fetch_max(version + 1, SeqCst);
        self.wanted.notify_one();
    }

    /// Resolves when there was a login later than `version`, which gave the token that was refused.
    ///
    /// # Errors
    ///
    /// What etcd said when it refused the login.
    pub(super) async fn renewed(&self, version: u64) -> Result<(), String> {
        let mut login = self.login.subscribe();
        self.want_after(version);
        // The sender lives as long as `self`, so the wait cannot fail.
        match login.wait_for(|login| login.version > version).await {
            Ok(login) => login.refused.clone().map_or(Ok(()), Err),
            Err(_) => Err("the store was closed".to_owned()),
        }
    }

    /// Logs in, and again when asked or when a token is about to end. Never returns.
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
                // Cancel safe: what was asked for stays in `wanted_above`.
                () = asked => {
                    if ended != Ended::Refused {
                        // etcd took back what this login had given.
                        tokio::time::sleep(pace.taken_back(clock::boot_now().since(at))).await;
                    }
                }
                () = renew => {}
            }
        }
    }

    /// Waits before a refused login is tried again, or until there is another password to try.
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

    /// Logs in at any member, one after the other until one answers.
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
                    pool.metrics().logged_in(true);
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
                    // As etcdctl does it: calls go on without a token. If authentication is turned on
                    // later, they are refused, and that asks for a login.
                    if self.header.borrow().is_some() || self.version() == 0 {
                        tracing::warn!(user = %self.user, "etcd has authentication off, the user is not needed");
                    }
                    pace.answered();
                    self.ended(None, None);
                    return Ended::NotNeeded;
                }
                Verdict::Denied(text) | Verdict::Reauthenticate(text) => {
                    pool.metrics().logged_in(false);
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

    /// Logged when it begins, and when etcd says something else.
    fn refused(&self, text: String) {
        if self.login.borrow().refused.as_ref() != Some(&text) {
            tracing::error!(user = %self.user, error = %text, "etcd refused the login");
        }
        self.ended(None, Some(text));
    }

    fn ended(&self, token: Option<HeaderValue>, refused: Option<String>) {
        // The header first: whoever is woken sends it.
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

/// How long a JWT still lasts; `None` for a token of another kind.
fn lifetime_of(token: &str) -> Option<Duration> {
    let payload = token.split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&base64url(payload)?).ok()?;
    let ends = claims.get("exp")?.as_f64()?;
    let now = clock::wall_now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    // A clock that is off, here or there, shall neither make a login storm nor a panic.
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
