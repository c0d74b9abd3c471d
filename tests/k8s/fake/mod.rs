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
        schemars::{self, JsonSchema},
    },
    testing::Fake,
};
use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use self::{
    program::{KINDS, Program},
    side::Side,
};
use crate::kube::{ApiServer, Space};

/// Steps of a program.
const STEPS: usize = 60;

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

async fn run(seed: u64, space: &Space<'_>) {
    let fake = Fake::new().custom::<Gadget>();
    let mut sides = [
        Side::new("fake", fake.client_in(&space.name), &space.name),
        Side::new("API server", space.client(), &space.name),
    ];
    for side in &mut sides {
        side.begin().await;
    }
    let mut program = Program::new(StdRng::seed_from_u64(seed));
    let mut steps = Vec::new();
    for number in 0..STEPS {
        let step = program.next_step();
        steps.push(format!("{number}: {step}"));
        let mut answers = Vec::new();
        for side in &mut sides {
            answers.push(side.step(&step).await);
        }
        assert!(
            answers[0] == answers[1],
            "seed {seed} (BELLWETHER_FAKE_FROM={seed} BELLWETHER_FAKE_PROGRAMS=1): after\n{}\n{} answers\n\
             {:#}\n{} answers\n{:#}",
            steps.join("\n"),
            sides[0].name,
            answers[0],
            sides[1].name,
            answers[1],
        );
    }
    for kind in KINDS {
        let mut events = Vec::new();
        for side in &mut sides {
            events.push(side.events(kind).await);
        }
        let [fake, real] = [&events[0], &events[1]];
        let differs = fake.iter().zip(real).find(|(fake, real)| fake != real);
        assert!(
            fake == real,
            "seed {seed}: {} events of {} on the fake, {} on the API server, after\n{}\nfirst difference: \
             {differs:#?}",
            fake.len(),
            kind.plural,
            real.len(),
            steps.join("\n"),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_answers_random_programs_like_the_api_server() {
    let api = ApiServer::shared().await;
    api.install(&[tidied(Gadget::crd())]).await.unwrap();
    let (from, programs) =
        (number("BELLWETHER_FAKE_FROM", 0), number("BELLWETHER_FAKE_PROGRAMS", 40));
    for seed in from..from + programs {
        let space = api.namespace("fake").await;
        run(seed, &space).await;
    }
}
