use std::sync::atomic::AtomicUsize;

use super::*;
use crate::store::{
    Get, Store as _, StoreError,
    etcd::{
        EtcdConfig, EtcdStore,
        fake::{FakeMember, Say},
    },
};

const LONG: Duration = Duration::from_secs(60);

/// Starts a member that answers logins and reads as the two scripts specify, and a store whose user logs in
/// there; also returns the count of logins.
async fn store(
    login: impl Fn(usize) -> Say + Send + Sync + 'static,
    read: impl Fn(usize) -> Say + Send + Sync + 'static,
) -> (EtcdStore, FakeMember, Arc<AtomicUsize>) {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    let member = FakeMember::of_methods(move |method| match method {
        "/etcdserverpb.Auth/Authenticate" => login(count.fetch_add(1, SeqCst) + 1),
        _ => read(count.load(SeqCst)),
    });
    let member = member.await;
    let config = EtcdConfig::new([member.endpoint()]).user("shop", "correct-horse");
    (EtcdStore::new(&config).unwrap(), member, logins)
}

async fn read(store: &EtcdStore, within: Duration) -> Result<(), StoreError> {
    store.get(Get::key("k"), within).await.map(|_| ())
}

/// Answer `AuthenticateResponse` with the token `t`.
fn token() -> Say {
    Say::One(vec![0x12, 1, b't'])
}

#[tokio::test]
async fn an_etcd_without_authentication_is_logged_in_to_once_and_used_without_a_token() {
    let off = |_| Say::Error(9, "etcdserver: authentication is not enabled");
    let (store, _member, logins) = store(off, |_| Say::Well).await;
    let auth = store.pool.auth().unwrap();
    assert_eq!(tokio::time::timeout(LONG, auth.renewed(0)).await.unwrap(), Ok(()));
    for _ in 0..20 {
        read(&store, LONG).await.unwrap();
    }
    assert_eq!((logins.load(SeqCst), auth.header().borrow().is_some()), (1, false));
}

#[tokio::test]
async fn authentication_that_is_turned_on_later_is_noticed() {
    let login = |n| if n == 1 { Say::Error(9, "authentication is not enabled") } else { token() };
    let wants_token = |logins| match logins {
        1 => Say::Error(3, "etcdserver: user name is empty"),
        _ => Say::Well,
    };
    let (store, _member, logins) = store(login, wants_token).await;
    tokio::time::timeout(LONG, store.pool.auth().unwrap().renewed(0)).await.unwrap().unwrap();
    read(&store, LONG).await.unwrap();
    assert_eq!(logins.load(SeqCst), 2);
}

/// Largest number of logins that a call of two seconds may cause: the pauses before more logins add up to
/// more.
const LOGINS_IN_TWO_SECONDS: usize = 10;

#[tokio::test]
async fn no_way_in_which_logins_lead_nowhere_makes_a_storm_of_them() {
    let refused =
        || Say::Error(3, "etcdserver: authentication failed, invalid user ID or password");
    let broken = || Say::Error(13, "nobody has seen that yet");
    let no_leader = || Say::Error(14, "etcdserver: no leader");
    for (what, login) in [
        ("refused", Box::new(move |_| refused()) as Box<dyn Fn(usize) -> Say + Send + Sync>),
        ("unknown", Box::new(move |_| broken())),
        ("no leader", Box::new(move |_| no_leader())),
        ("accepted in vain", Box::new(|_| token())),
    ] {
        let (store, _member, logins) =
            store(login, |_| Say::Error(16, "etcdserver: invalid auth token")).await;
        let until = clock::boot_now() + Duration::from_secs(2);
        while clock::boot_now() < until {
            read(&store, Duration::from_secs(2)).await.unwrap_err();
        }
        let logins = logins.load(SeqCst);
        assert!((1..=LOGINS_IN_TWO_SECONDS).contains(&logins), "{what}: {logins} logins");
    }
}

#[test]
fn a_jwt_tells_how_long_it_lasts_and_other_tokens_do_not() {
    // Payload {"alg":"none"}.{"exp":4102444800}: the first day of 2100.
    let far = lifetime_of("eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.x").unwrap();
    assert_eq!(far, Duration::from_secs(86_400));
    // Payload {"exp":1}: long over, by a clock that is wrong; even so, the next login is not immediate.
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
