//! Explanations of the server's error answers, except RBAC's refusals.

use kube::core::{Status, response::StatusCause};

use super::{Explained, Reason};

/// Reason that kube sets if the answer was no status but plain text, from the server or from a proxy before it.
const NO_STATUS: &str = "Failed to parse error data";

pub(super) fn explain(status: &Status) -> Explained {
    if let Some(explained) = of_admission(status).or_else(|| of_size(status)) {
        return explained;
    }
    let known = if status.reason == NO_STATUS { "" } else { status.reason.as_str() };
    match (known, status.code) {
        ("Unauthorized", _) | ("", 401) => unauthorized(status),
        ("NotFound", _) | ("", 404) => not_found(status),
        ("AlreadyExists", _) => Explained::new(Reason::AlreadyExists, words(status))
            .remedy("read it and update it instead"),
        ("Conflict", _) | ("", 409) => conflict(status),
        ("Invalid", _) | ("", 422) => invalid(status),
        ("BadRequest", _) | ("", 400) => bad_request(status),
        ("Gone" | "Expired", _) | ("", 410) => {
            Explained::new(Reason::Gone, words(status)).remedy("list again and watch from there")
        }
        ("TooManyRequests", _) | ("", 429) => too_many(status),
        ("Timeout", _) | ("", 504) => Explained::new(Reason::Timeout, words(status)),
        ("Forbidden", _) | ("", 403) => Explained::new(Reason::Denied, words(status)),
        ("ServiceUnavailable" | "ServerTimeout" | "InternalError" | "StorageReadError", _)
        | (_, 500..=599) => Explained::new(Reason::Unavailable, words(status))
            .remedy("if this lasts, look at kubectl get --raw '/readyz?verbose' and at etcd"),
        _ => Explained::new(Reason::Other, words(status)),
    }
}

/// The server's message; the status code if the message is empty.
fn words(status: &Status) -> String {
    let message = status.message.trim();
    if message.is_empty() {
        format!("the API server answered with code {} {}", status.code, status.reason)
    } else {
        message.to_owned()
    }
}

/// Explains refusals by webhooks, policies, pod security, quotas and terminating namespaces. Their status codes differ.
fn of_admission(status: &Status) -> Option<Explained> {
    let message = status.message.as_str();
    let quoted = |text: &str| text.split(['"', '\'']).nth(1).unwrap_or_default().to_owned();
    if let Some(rest) = after(message, "admission webhook ")
        && let Some((_, why)) = rest.split_once(" denied the request")
    {
        let name = quoted(rest);
        let why = why.trim_start_matches([':', ' ']);
        return Some(
            Explained::new(Reason::Denied, format!("webhook {name} denied it: {why}"))
                .remedy(format!("change the object as it says, or ask whose webhook {name} is")),
        );
    }
    if let Some(rest) = after(message, "ValidatingAdmissionPolicy ")
        && let Some((_, why)) = rest.split_once(" denied request: ")
    {
        let name = quoted(rest);
        return Some(
            Explained::new(Reason::Denied, format!("policy {name} denied it: {why}")).remedy(
                format!("change the object as it says: kubectl describe validatingadmissionpolicy {name}"),
            ),
        );
    }
    if let Some(rest) = after(message, "failed calling webhook ") {
        let name = quoted(rest);
        return Some(
            Explained::new(Reason::WebhookFailed, format!("webhook {name} could not be asked: {message}"))
                .remedy(format!("see that the service behind {name} runs; until it does nothing it watches over can be written")),
        );
    }
    if status.code != 403 && status.reason != "Forbidden" {
        return None;
    }
    if message.contains("because it is being terminated") {
        return Some(
            Explained::new(Reason::Terminating, message)
                .remedy("nothing can be created in it any more; stop creating"),
        );
    }
    if message.contains("exceeded quota") {
        return Some(
            Explained::new(Reason::QuotaExceeded, message)
                .remedy("raise the ResourceQuota, or delete what is not needed"),
        );
    }
    message.contains("violates PodSecurity").then(|| {
        Explained::new(Reason::Denied, message).remedy(
            "set the securityContext it names, or the namespace's pod-security.kubernetes.io/enforce label",
        )
    })
}

/// Explains objects that are too large: the server accepts 3 MiB for a request, etcd 1.5 MiB for an object.
fn of_size(status: &Status) -> Option<Explained> {
    let message = status.message.as_str();
    let by_server = status.code == 413 || status.reason == "RequestEntityTooLarge";
    let by_etcd = message.contains("etcdserver: request is too large")
        || message.contains("trying to send message larger than max");
    let by_field = status.is_invalid() && message.contains(": Too long:");
    (by_server || by_etcd || by_field).then(|| {
        Explained::new(Reason::TooLarge, words(status))
            .remedy("keep less in the object: fewer entries in its status, or several objects")
    })
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

fn unauthorized(status: &Status) -> Explained {
    Explained::new(
        Reason::Unauthorized,
        format!("the API server does not know who is asking ({})", words(status)),
    )
    .remedy(
        "the token has expired, is of another cluster, or its pod or ServiceAccount is deleted: in a pod \
         see that the projected token is mounted and fresh, elsewhere log in again \
         (kubectl auth whoami with the same kubeconfig tells)",
    )
}

fn not_found(status: &Status) -> Explained {
    let details = status.details.as_ref();
    if let Some(it) = details.filter(|it| !it.name.is_empty()) {
        let what =
            if it.group.is_empty() { it.kind.clone() } else { format!("{}.{}", it.kind, it.group) };
        let explained =
            Explained::new(Reason::NotFound, format!("there is no {what} {:?}", it.name));
        return if it.kind == "namespaces" {
            let name = &it.name;
            explained.remedy(format!("kubectl create namespace {name}"))
        } else {
            explained
        };
    }
    Explained::new(
        Reason::KindMissing,
        format!("the API server does not know this kind or version ({})", words(status)),
    )
    .remedy(
        "install the CustomResourceDefinitions: bellwether crds | kubectl apply --server-side -f - \
         (for other kinds: see kubectl api-resources)",
    )
}

fn conflict(status: &Status) -> Explained {
    let owners: Vec<String> = causes(status)
        .filter(|it| it.reason == "FieldManagerConflict")
        .map(|it| format!("{} ({})", it.field, it.message))
        .collect();
    if owners.is_empty() {
        return Explained::new(Reason::Conflict, words(status))
            .remedy("read it again and repeat the change on what it is now");
    }
    Explained::new(Reason::Conflict, format!("others own these fields: {}", owners.join(", ")))
        .remedy(
            "leave the fields out of what is applied, or apply by force if they are rightly ours",
        )
}

fn invalid(status: &Status) -> Explained {
    let fields: Vec<String> = causes(status)
        .map(|it| {
            if it.field.is_empty() {
                it.message.clone()
            } else {
                format!("{}: {}", it.field, it.message)
            }
        })
        .collect();
    let said = words(status);
    // The message `X "name" is invalid: …` repeats the fields in one line.
    let whom = said.split_once(" is invalid").map_or("the object", |(whom, _)| whom);
    let message = if fields.is_empty() {
        said.clone()
    } else {
        format!("{whom} is invalid: {}", fields.join("; "))
    };
    Explained::new(Reason::Invalid, message)
        .remedy("mend the fields: kubectl explain says what they take")
}

fn bad_request(status: &Status) -> Explained {
    let said = words(status);
    if said.contains("decoding error") || said.contains("unknown field") {
        return Explained::new(Reason::Invalid, said)
            .remedy("the installed schema has no such field: is an older CustomResourceDefinition installed?");
    }
    Explained::new(Reason::Other, said)
}

fn too_many(status: &Status) -> Explained {
    let explained = Explained::new(Reason::TooManyRequests, words(status));
    if causes(status).any(|it| it.reason == "DisruptionBudget") {
        return explained.remedy("its PodDisruptionBudget allows no more disruption now");
    }
    explained.remedy(
        "the server serves others first: kubectl get --raw /debug/api_priority_and_fairness/dump_priority_levels; \
         lower the concurrency, or give this client a FlowSchema",
    )
}

fn causes(status: &Status) -> impl Iterator<Item = &StatusCause> {
    status.details.iter().flat_map(|it| &it.causes)
}
