use k8s_openapi::{
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::*;

fn map(change: impl FnOnce(&mut ObjectMeta)) -> ConfigMap {
    let mut map = ConfigMap::default();
    change(&mut map.metadata);
    map
}

#[test]
fn each_predicate_tells_a_change_of_its_own_and_of_nothing_else() {
    let some = || Some([("a".to_owned(), "b".to_owned())].into());
    let plain = || map(|it| it.generation = Some(1));
    let changes = [
        map(|it| it.generation = Some(2)),
        map(|it| (it.generation, it.labels) = (Some(1), some())),
        map(|it| (it.generation, it.annotations) = (Some(1), some())),
        map(|it| (it.generation, it.resource_version) = (Some(1), Some("2".to_owned()))),
    ];
    let told = changes
        .each_ref()
        .map(|new| (generation(&plain(), new), labels(&plain(), new), annotations(&plain(), new)));
    let none = (false, false, false);
    assert_eq!(told, [(true, false, false), (false, true, false), (false, false, true), none]);
    let uncounted = ConfigMap::default();
    assert!(generation(&uncounted, &uncounted), "of a kind that counts no generations");
}

#[test]
fn an_owner_is_whoever_controls_the_object_and_is_of_the_kind() {
    let owned = |api_version: &str, kind: &str, controller| {
        let owner = OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: "web".to_owned(),
            uid: "1".to_owned(),
            controller,
            ..OwnerReference::default()
        };
        let owned = map(|it| {
            it.namespace = Some("shop".to_owned());
            it.owner_references = Some(vec![owner]);
        });
        owner_of(&owned, "apps", "Deployment")
    };
    let web = Some(ObjectKey::namespaced("shop", "web"));
    // The version does not matter: an object keeps the version that it was created with.
    assert_eq!(owned("apps/v1", "Deployment", Some(true)), web);
    assert_eq!(owned("apps/v1beta2", "Deployment", Some(true)), web);
    assert_eq!(owned("apps/v1", "Deployment", None), None, "it does not control it");
    assert_eq!(owned("apps/v1", "StatefulSet", Some(true)), None);
    assert_eq!(owned("v1", "Deployment", Some(true)), None, "of another group");
}
