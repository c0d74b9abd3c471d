//! The token that calls carry, when etcd has users.
//!
//! One task logs in; whoever finds the token refused asks it and waits. A token that says when it ends
//! (JWT) is renewed before it does; etcd's simple ones live on while they are used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use http::HeaderValue;
use tokio::sync::{Notify, watch};

use super::{
    config::Password,
    errors::{Verdict, classify},
    link::TokenHeader,
    pool::{Pool, Tried},
};
use crate::clock;

/// A login hashes the password, which takes etcd tens of milliseconds of a core, on purpose.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two logins that failed for good; etcd's cost is its own defence, this is ours.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

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
        loop {
            let lifetime = self.log_in(&pool).await;
            let renew = async {
                match lifetime {
                    Some(lifetime) => tokio::time::sleep(lifetime * 2 / 3).await,
                    None => std::future::pending().await,
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
                () = asked => {}
                () = renew => {}
            }
        }
    }

    /// Logs in at any member; returns how long the token lasts, if that is known.
    async fn log_in(&self, pool: &Pool) -> Option<Duration> {
        let mut tried = Tried::default();
        loop {
            let Some(member) = pool.choose(tried) else {
                tried = Tried::default();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let password = match self.password().await {
                Ok(password) => password,
                Err(problem) => {
                    self.ended(None, Some(problem));
                    tokio::time::sleep(AFTER_REFUSAL).await;
                    return None;
                }
            };
            let link = pool.link(member);
            let mut auth = link.auth();
            let asking = auth.authenticate(self.user.clone(), password);
            let verdict = match tokio::time::timeout(LOGIN_TIMEOUT, asking).await {
                Ok(Ok(answer)) => {
                    pool.metrics().logged_in(true);
                    return self.accepted(answer.token());
                }
                Ok(Err(error)) => classify(&error),
                Err(_) => Verdict::NotServing("no answer to a login".to_owned()),
            };
            match verdict {
                Verdict::Denied(text) | Verdict::Reauthenticate(text)
                    if text.contains("authentication is not enabled") =>
                {
                    // A user is configured and etcd has none yet: nothing is wrong.
                    self.ended(None, None);
                    return None;
                }
                Verdict::Denied(text) | Verdict::Reauthenticate(text) => {
                    pool.metrics().logged_in(false);
                    tracing::error!(user = %self.user, error = %text, "etcd refused the login");
                    self.ended(None, Some(text));
                    tokio::time::sleep(AFTER_REFUSAL).await;
                    return None;
                }
                other => {
                    tracing::debug!(error = ?other, "a login failed");
                    tried.insert(member);
                }
            }
        }
    }

    fn accepted(&self, token: &str) -> Option<Duration> {
        let Ok(mut header) = HeaderValue::from_str(token) else {
            self.ended(None, Some("etcd's token is not a valid header".to_owned()));
            return None;
        };
        header.set_sensitive(true);
        self.ended(Some(header), None);
        lifetime_of(token)
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
