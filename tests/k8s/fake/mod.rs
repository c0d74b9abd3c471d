//! The fake API of the test kit answers like the real API server: both get the same random programs.
//!
//! A program is a list of requests about a few objects with few values, so that steps interact: applies of
//! several managers meet in one field, updates carry stale versions, deletes meet finalizers. After each step
//! the answers are compared, and after each program the events of a watch. Values that differ by nature (UIDs,
//! versions, times) are replaced by names first.
//!
//! `BELLWETHER_FAKE_PROGRAMS` sets the number of programs, `BELLWETHER_FAKE_FROM` the first seed.

mod program;
mod side;

use std::collections::BTreeMap;

use bellwether::{
    k8s::{
        crd::tidied,
        kube::{CustomResource, CustomResourceExt as _},
        schemars::JsonSchema,
    },
    testing::Fake,
};
use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::{
    program::{KINDS, Program},
    side::Side,
};
use crate::kube::{ApiServer, Space};

/// Steps of a program.
const STEPS: usize = 60;

/// Differences that a failure shows, of as many programs.
const MOST_SHOWN: usize = 10;

/// A custom resource with a list of every form.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "test.bellwether.dev",
    version = "v1",
    kind = "Gadget",
    namespaced,
    status = "GadgetStatus",
    derive = "PartialEq",
    crates(
        kube_core = "bellwether::k8s::kube::core",
        k8s_openapi = "bellwether::k8s::k8s_openapi",
        schemars = "bellwether::k8s::schemars"
    )
)]
#[schemars(crate = "bellwether::k8s::schemars")]
struct GadgetSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"])
    )]
    ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "set"))]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    plain: Vec<String>,
}

/// An item of the keyed list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "bellwether::k8s::schemars")]
struct Port {
    port: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

/// Status of a gadget, which two managers write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "bellwether::k8s::schemars")]
struct GadgetStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |it| it.parse().expect("a number"))
}

/// Whether the API server has met a flaw of its own: an apply that takes the last field out of a map which another
/// manager owns leaves a null in its place, and the schema rejects the null. The two differ from there on.
fn is_flaw(answer: &Value) -> bool {
    let causes = answer.pointer("/answer/details/causes").and_then(Value::as_array);
    let mut causes = causes.into_iter().flatten().filter_map(|it| it["message"].as_str());
    causes.any(|it| it.ends_with("must be of type object: \"null\""))
}

/// Runs a program against both APIs.
///
/// # Errors
///
/// The first difference, with the steps that led to it.
async fn run(seed: u64, space: &Space<'_>) -> Result<(), String> {
    let fake = Fake::new().custom::<Gadget>();
    let mut sides = [
        Side::new(fake.client_in(&space.name), &space.name),
        Side::new(space.client(), &space.name),
    ];
    for side in &mut sides {
        side.begin().await;
    }
    let [fake, real] = &mut sides;
    let mut program = Program::new(StdRng::seed_from_u64(seed));
    let mut steps = Vec::new();
    let again = format!("BELLWETHER_FAKE_FROM={seed} BELLWETHER_FAKE_PROGRAMS=1");
    for number in 0..STEPS {
        let step = program.next_step();
        steps.push(format!("{number}: {step}"));
        let (left, right) = (fake.step(&step).await, real.step(&step).await);
        if is_flaw(&right) {
            return Ok(());
        }
        if left != right {
            let steps = steps.join("\n");
            return Err(format!(
                "{again}: after\n{steps}\nthe fake answers\n{left:#}\nthe API server answers\n{right:#}"
            ));
        }
    }
    for kind in KINDS {
        let (left, right) = (fake.events(kind).await, real.events(kind).await);
        if left != right {
            let first = left.iter().zip(&right).find(|(left, right)| left != right);
            let steps = steps.join("\n");
            return Err(format!(
                "{again}: {} events of {} from the fake, {} from the API server, after\n{steps}\nfirst \
                 difference: {first:#?}",
                left.len(),
                kind.plural,
                right.len()
            ));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_answers_random_programs_like_the_api_server() {
    let api = ApiServer::shared().await;
    api.install(&[tidied(Gadget::crd())]).await.unwrap();
    let (from, programs) =
        (number("BELLWETHER_FAKE_FROM", 0), number("BELLWETHER_FAKE_PROGRAMS", 40));
    let mut differences = Vec::new();
    for seed in from..from + programs {
        let space = api.namespace("fake").await;
        differences.extend(run(seed, &space).await.err());
    }
    let count = differences.len();
    differences.truncate(MOST_SHOWN);
    assert!(count == 0, "{count} of {programs} programs differ:\n\n{}", differences.join("\n\n"));
}
