//! Users, roles and tokens that expire.

use std::{path::Path, time::Duration};

use bellwether::{
    engine::Revision,
    store::{
        Get, Store, StoreError,
        etcd::{EtcdConfig, EtcdMetrics, EtcdStore},
    },
};

use super::{LONG, events, get, lease, put, value, watch};
use crate::support::{etcd::Etcd, eventually, pki};

const USER: &str = "shop";
const PASSWORD: &str = "correct-horse";

fn as_shop(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig::new(etcd.endpoints()).user(USER, PASSWORD).probe_key("/shop/probe")
}

async fn with_user() -> Etcd {
    Etcd::options().user(USER, PASSWORD, "/shop/").start().await
}

/// An etcd with signed tokens, which expire `ttl` after they were made, also when in use, and with every change
/// of a user or role.
async fn with_jwt(folder: &Path, ttl: Duration) -> Etcd {
    let key = rcgen::KeyPair::generate().unwrap();
    let (private, public) = (folder.join("jwt.key"), folder.join("jwt.pub"));
    std::fs::write(&private, key.serialize_pem()).unwrap();
    std::fs::write(&public, key.public_key_pem()).unwrap();
    let flag = format!(
        "--auth-token=jwt,pub-key={},priv-key={},sign-method=ES256,ttl={}s",
        public.display(),
        private.display(),
        ttl.as_secs()
    );
    Etcd::options().user(USER, PASSWORD, "/shop/").flag(flag).start().await
}

/// Number of logins that etcd has accepted.
fn logins(metrics: &EtcdMetrics) -> u64 {
    metrics.logins.with_label_values(&["accepted"]).get()
}

async fn counted(config: EtcdConfig) -> (EtcdStore, EtcdMetrics) {
    let metrics = EtcdMetrics::unregistered();
    (EtcdStore::connect(&config.metrics(metrics.clone())).await.unwrap(), metrics)
}

/// Text of an error with all of its causes.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}

#[tokio::test]
async fn a_user_of_one_prefix_can_do_everything_there_and_nothing_elsewhere() {
    let etcd = with_user().await;
    let store = EtcdStore::connect(&as_shop(&etcd)).await.unwrap();
    let start = put(&store, "/shop/a", "1").await.unwrap().revision;
    assert_eq!(value(&store, "/shop/a").await.as_deref(), Some("1"));
    store.grant(lease(3), Duration::from_secs(60), LONG).await.unwrap();
    store.keep_alive(lease(3), LONG).await.unwrap();
    let mut watching = watch(&store, "/shop/", Revision(start.0 + 1)).await.unwrap();
    put(&store, "/shop/a", "2").await.unwrap();
    assert_eq!(events(watching.as_mut()).await.1, ["/shop/a=2"]);
    store.revoke(lease(3), LONG).await.unwrap();
    for refused in [
        put(&store, "/other/a", "1").await.unwrap_err(),
        get(&store, "/other/a").await.unwrap_err(),
        watch(&store, "/other/", Revision(1)).await.err().expect("refused"),
    ] {
        assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
        assert!(refused.to_string().contains("grant-permission"), "{refused}");
    }
    put(&store, "/shop/a", "3").await.unwrap();
}

#[tokio::test]
async fn the_default_probe_key_may_be_forbidden() {
    let etcd = with_user().await;
    let config = EtcdConfig::new(etcd.endpoints()).user(USER, PASSWORD);
    let store = EtcdStore::connect(&config).await.unwrap();
    put(&store, "/shop/a", "1").await.unwrap();
}

#[tokio::test]
async fn wrong_or_missing_credentials_say_what_to_do() {
    let etcd = with_user().await;
    let wrong = EtcdConfig::new(etcd.endpoints()).user(USER, "hunter2");
    let refused = said(&EtcdStore::connect(&wrong).await.unwrap_err());
    assert!(refused.contains("invalid user ID or password"), "{refused}");
    assert!(refused.contains(&etcd.endpoint(0)) && !refused.contains("hunter2"), "{refused}");
    let none = EtcdConfig::new(etcd.endpoints());
    let refused = said(&EtcdStore::connect(&none).await.unwrap_err());
    assert!(refused.contains("etcd wants a user"), "{refused}");
    let no_file = EtcdConfig::new(etcd.endpoints()).user_with_password_file(USER, "/nowhere");
    let refused = said(&EtcdStore::connect(&no_file).await.unwrap_err());
    assert!(refused.contains("/nowhere cannot be read"), "{refused}");
}

#[tokio::test]
async fn credentials_do_no_harm_where_etcd_has_no_users() {
    let etcd = Etcd::start().await;
    let store = EtcdStore::connect(&as_shop(&etcd)).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    assert!(!format!("{store:?} {:?}", as_shop(&etcd)).contains(PASSWORD));
}

#[tokio::test]
async fn a_token_that_etcd_drops_costs_no_call() {
    let etcd = with_user().await;
    let (store, metrics) = counted(as_shop(&etcd)).await;
    store.grant(lease(4), Duration::from_secs(600), LONG).await.unwrap();
    store.keep_alive(lease(4), LONG).await.unwrap();
    assert_eq!(logins(&metrics), 1);
    // Setting the same password again ends all tokens of the user.
    etcd.client().await.user_change_password(USER, PASSWORD).await.unwrap();
    put(&store, "/shop/a", "1").await.unwrap();
    assert_eq!(store.keep_alive(lease(4), LONG).await.unwrap().ttl, Duration::from_secs(600));
    watch(&store, "/shop/", Revision(1)).await.unwrap();
    assert_eq!(get(&store, "/shop/a").await.unwrap().kvs[0].version, 1);
    assert_eq!(logins(&metrics), 2, "one login served all of them");
}

#[tokio::test]
async fn a_token_that_ran_out_while_nobody_called_costs_no_call() {
    let options = Etcd::options().token_ttl(Duration::from_secs(5));
    let etcd = options.user(USER, PASSWORD, "/shop/").start().await;
    let (store, metrics) = counted(as_shop(&etcd)).await;
    let mut raw = etcd.client().await;
    // The test must wait until a plain client with the same idle time is refused. Only then the store is
    // called.
    let mut idle = Duration::from_secs(6);
    loop {
        tokio::time::sleep(idle).await;
        match raw.get("/shop/a", None).await {
            Ok(_) => idle += Duration::from_secs(1),
            Err(error) => {
                assert!(error.to_string().contains("invalid auth token"), "{error}");
                break;
            }
        }
    }
    put(&store, "/shop/a", "1").await.unwrap();
    assert_eq!(logins(&metrics), 2);
}

#[tokio::test]
async fn a_signed_token_is_renewed_before_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = with_jwt(folder.path(), Duration::from_secs(3)).await;
    let (store, metrics) = counted(as_shop(&etcd)).await;
    let logins = || logins(&metrics);
    // The store renews the token without any call, so no call can be refused.
    eventually("three more logins", LONG, async || (logins() >= 4).then_some(())).await;
    put(&store, "/shop/a", "1").await.unwrap();
}

#[tokio::test]
async fn a_change_of_roles_costs_no_call_and_no_watch() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = with_jwt(folder.path(), Duration::from_secs(3600)).await;
    let (store, metrics) = counted(as_shop(&etcd)).await;
    let start = put(&store, "/shop/a", "1").await.unwrap().revision;
    let mut watching = watch(&store, "/shop/", Revision(start.0 + 1)).await.unwrap();
    let mut raw = etcd.client().await;
    etcd.etcdctl(&["user", "add", "somebody:else"]);
    let stale = raw.get("/shop/a", None).await.unwrap_err().to_string();
    assert!(stale.contains("revision of auth store is old"), "{stale}");
    put(&store, "/shop/a", "2").await.unwrap();
    assert_eq!(logins(&metrics), 2);
    assert_eq!(events(watching.as_mut()).await.1, ["/shop/a=2"]);
    // A role is revoked and granted again.
    etcd.etcdctl(&["user", "revoke-role", USER, USER]);
    let refused = put(&store, "/shop/a", "3").await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
    etcd.etcdctl(&["user", "grant-role", USER, USER]);
    put(&store, "/shop/a", "4").await.unwrap();
}

#[tokio::test]
async fn a_changed_password_is_read_from_its_file() {
    let etcd = with_user().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    pki::replace(&file, &format!("{PASSWORD}\n"));
    let config = EtcdConfig::new(etcd.endpoints())
        .user_with_password_file(USER, &file)
        .probe_key("/shop/probe");
    let (store, metrics) = counted(config).await;
    put(&store, "/shop/a", "1").await.unwrap();
    let mut root = etcd.client().await;
    root.user_change_password(USER, "battery-staple").await.unwrap();
    // The old token ended with the old password, and the file still holds the old password.
    let refused = put(&store, "/shop/a", "2").await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
    assert!(refused.to_string().contains("invalid user ID or password"), "{refused}");
    pki::replace(&file, "battery-staple\n");
    eventually("the new password is used", LONG, async || {
        store.get(Get::key("/shop/a"), Duration::from_secs(2)).await.ok()
    })
    .await;
    put(&store, "/shop/a", "3").await.unwrap();
    assert!(logins(&metrics) >= 2);
}
