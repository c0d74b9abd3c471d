//! A namespace for a single test, and users with rules of their own in it.

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Client, Config, Resource,
    api::PostParams,
    core::{NamespaceResourceScope, ObjectMeta},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{from_value, json};

use super::{ADMIN, Environment, EnvironmentError, client, done, rejected};

/// API group of roles and their bindings.
const RBAC: &str = "rbac.authorization.k8s.io";

/// Prefix of the user that a service account acts as.
const ACCOUNT: &str = "system:serviceaccount";

/// A namespace for a single test.
#[derive(Clone, Debug)]
pub struct Space<'a> {
    /// Environment that the namespace is in.
    pub environment: &'a Environment,
    /// Name of the namespace.
    pub name: String,
}

/// A user or service account with rules of its own, and no other rights.
#[derive(Clone, Debug)]
pub struct User {
    /// Name of the user, as RBAC rules have it.
    pub name: String,
    /// Configuration of a client that acts as the user.
    pub config: Config,
}

impl User {
    /// A client that acts as the user.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn client(&self) -> Client {
        client(self.config.clone())
    }
}

impl<'a> Space<'a> {
    /// Creates a namespace, with its service account `default`: no controller does that here.
    pub(super) async fn begun(
        environment: &'a Environment,
        name: String,
    ) -> Result<Self, EnvironmentError> {
        let namespace = Namespace { metadata: named(&name), ..Namespace::default() };
        let all = Api::<Namespace>::all(environment.client());
        create(&all, &namespace, &name).await?;
        let space = Self { environment, name };
        space.create(&ServiceAccount { metadata: named("default"), ..Default::default() }).await?;
        Ok(space)
    }

    /// A client that may do everything; its default namespace is this one.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn client(&self) -> Client {
        client(self.here(self.environment.config_with_token(ADMIN)))
    }

    /// The configuration with this namespace as its default.
    #[must_use]
    pub fn here(&self, mut config: Config) -> Config {
        config.default_namespace.clone_from(&self.name);
        config
    }

    /// A user who may do in this namespace what the rules allow, and nothing else. Returns once the server
    /// applies the rules.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError`] if the server rejects a rule, or does not apply it in time.
    pub async fn user(
        &self,
        name: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) -> Result<User, EnvironmentError> {
        let user = self.as_user(name);
        self.grant(&user, name, rules).await?;
        Ok(user)
    }

    fn as_user(&self, name: &str) -> User {
        let name = format!("{}-{name}", self.name);
        let config = self.environment.config_as(&name, &["system:authenticated"]);
        User { config: self.here(config), name }
    }

    /// A service account that may do in this namespace what the rules allow, and nothing else. Returns once the
    /// server applies the rules.
    ///
    /// # Errors
    ///
    /// As for [`user`](Self::user).
    pub async fn service_account(
        &self,
        name: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) -> Result<User, EnvironmentError> {
        self.create(&ServiceAccount { metadata: named(name), ..Default::default() }).await?;
        let user = format!("{ACCOUNT}:{}:{name}", self.name);
        let group = format!("system:serviceaccounts:{}", self.name);
        let groups = ["system:serviceaccounts", &group, "system:authenticated"];
        let config = self.here(self.environment.config_as(&user, &groups));
        let user = User { name: user, config };
        self.grant(&user, name, rules).await?;
        Ok(user)
    }

    /// Grants a user more rights in this namespace. Returns once the server applies them.
    ///
    /// # Errors
    ///
    /// As for [`user`](Self::user).
    pub async fn grant(
        &self,
        user: &User,
        role: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) -> Result<(), EnvironmentError> {
        let rules: Vec<_> = rules.into_iter().collect();
        self.create(&Role { metadata: named(role), rules: Some(rules.clone()) }).await?;
        let binding = RoleBinding {
            metadata: named(role),
            role_ref: role_ref("Role", role),
            subjects: Some(vec![self.subject(&user.name)]),
        };
        self.create(&binding).await?;
        self.until_allowed(&user.name, &rules, Some(&self.name)).await
    }

    /// As [`user`](Self::user), with rules for all namespaces and for cluster-wide resources.
    ///
    /// # Errors
    ///
    /// As for [`user`](Self::user).
    pub async fn cluster_user(
        &self,
        name: &str,
        rules: impl IntoIterator<Item = PolicyRule>,
    ) -> Result<User, EnvironmentError> {
        let rules: Vec<_> = rules.into_iter().collect();
        let user = self.as_user(name);
        let role = ClusterRole {
            metadata: named(&user.name),
            rules: Some(rules.clone()),
            aggregation_rule: None,
        };
        create(&Api::all(self.environment.client()), &role, &user.name).await?;
        let binding = ClusterRoleBinding {
            metadata: named(&user.name),
            role_ref: role_ref("ClusterRole", &user.name),
            subjects: Some(vec![self.subject(&user.name)]),
        };
        create(&Api::all(self.environment.client()), &binding, &user.name).await?;
        self.until_allowed(&user.name, &rules, None).await?;
        Ok(user)
    }

    async fn create<K>(&self, object: &K) -> Result<(), EnvironmentError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        create(&Api::<K>::default_namespaced(self.client()), object, &name).await
    }

    fn subject(&self, user: &str) -> Subject {
        match user.strip_prefix(&format!("{ACCOUNT}:{}:", self.name)) {
            Some(account) => Subject {
                kind: "ServiceAccount".to_owned(),
                name: account.to_owned(),
                api_group: None,
                namespace: Some(self.name.clone()),
            },
            None => Subject {
                kind: "User".to_owned(),
                name: user.to_owned(),
                api_group: Some(RBAC.to_owned()),
                namespace: None,
            },
        }
    }

    /// Waits until the server allows the first verb of each rule.
    async fn until_allowed(
        &self,
        user: &str,
        rules: &[PolicyRule],
        namespace: Option<&str>,
    ) -> Result<(), EnvironmentError> {
        let first = |list: Option<&Vec<String>>| list.and_then(|it| it.first()).cloned();
        for rule in rules {
            let resource = first(rule.resources.as_ref()).unwrap_or_default();
            let (resource, subresource) =
                resource.split_once('/').map_or((resource.as_str(), None), |(a, b)| (a, Some(b)));
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: Some(user.to_owned()),
                    resource_attributes: Some(ResourceAttributes {
                        namespace: namespace.map(str::to_owned),
                        verb: rule.verbs.first().cloned(),
                        group: first(rule.api_groups.as_ref()),
                        resource: Some(resource.to_owned()),
                        subresource: subresource.map(str::to_owned),
                        name: first(rule.resource_names.as_ref()),
                        ..ResourceAttributes::default()
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let reviews = Api::<SubjectAccessReview>::all(self.environment.client());
            let is_allowed = async || {
                let answer = reviews.create(&PostParams::default(), &review).await;
                answer.ok()?.status.filter(|it| it.allowed).map(|_| ())
            };
            done(&format!("{user} may do what {rule:?} allows"), is_allowed).await?;
        }
        Ok(())
    }
}

/// A rule for one resource of one API group (`""` is the core).
pub fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    }
}

async fn create<K>(api: &Api<K>, object: &K, name: &str) -> Result<(), EnvironmentError>
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let created = api.create(&PostParams::default(), object).await;
    created.map(drop).map_err(|source| rejected(format!("creating {name}"), source))
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    // The type of the group differs between versions of Kubernetes.
    let role = json!({ "apiGroup": RBAC, "kind": kind, "name": name });
    from_value(role).expect("the form of a RoleRef")
}
