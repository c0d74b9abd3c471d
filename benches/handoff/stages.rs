//! Stages of a handoff, from the steps that the drivers of both nodes log.

use std::{
    fmt::{self, Write as _},
    sync::Mutex,
};

use bellwether::{clock::boot_now, engine::BootTime};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::{
    common::{LONG, Samples},
    support::eventually,
};

/// The marks of a handoff, in their order.
static MARKS: Mutex<Vec<(Mark, BootTime)>> = Mutex::new(Vec::new());

/// A step of the node that leaves, or of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The leaving node sends STOP.
    StopSent,
    /// The successor has seen the STOP and sends TAKE.
    TakeSent,
    /// TAKE has committed, and the leader's work is started. The driver logs this just after the start, so that
    /// logging delays no work: the first tick may come before the mark.
    WorkStarts,
}

impl Mark {
    fn of(message: &str, call: &str) -> Option<Self> {
        match (message, call) {
            ("sent", "stop") => Some(Self::StopSent),
            ("sent", "take") => Some(Self::TakeSent),
            ("leader's work starts", _) => Some(Self::WorkStarts),
            _ => None,
        }
    }
}

/// Records the marks from now on, and logs what `RUST_LOG` selects.
pub(crate) fn listen() {
    let driver = Targets::new().with_target("bellwether::node::driver", LevelFilter::TRACE);
    let log = tracing_subscriber::fmt::layer().with_filter(EnvFilter::from_default_env());
    tracing_subscriber::registry().with(log).with(Listener.with_filter(driver)).init();
}

struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        if let Some(mark) = Mark::of(&said.message, said.call) {
            MARKS.lock().unwrap().push((mark, boot_now()));
        }
    }
}

#[derive(Default)]
struct Said {
    message: String,
    call: &'static str,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "call" {
            self.call = ["stop", "take"].into_iter().find(|call| *call == value).unwrap_or("");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        }
    }
}

/// The stages of many handoffs.
#[derive(Default)]
pub(crate) struct Stages {
    /// Time from the call until STOP was sent.
    pub(crate) leaving: Samples,
    /// Time until the successor saw the STOP and sent its TAKE.
    pub(crate) heard: Samples,
    /// Time until TAKE was answered.
    pub(crate) taken: Samples,
    /// Time until the leader routine runs.
    pub(crate) started: Samples,
}

impl Stages {
    /// Drops the recorded marks.
    pub(crate) fn begin() {
        MARKS.lock().unwrap().clear();
    }

    /// Adds the handoff that was recorded since [`begin`](Self::begin).
    pub(crate) async fn add(&mut self, called: BootTime, first_tick: BootTime) {
        let at = async |wanted: Mark| {
            eventually("the handoff is told whole", LONG, async || {
                let marks = MARKS.lock().unwrap();
                marks.iter().find(|(mark, _)| *mark == wanted).map(|(_, at)| *at)
            })
            .await
        };
        let [stop, take, works] = [Mark::StopSent, Mark::TakeSent, Mark::WorkStarts];
        let places = [called, at(stop).await, at(take).await, at(works).await, first_tick];
        let stages = [&mut self.leaving, &mut self.heard, &mut self.taken, &mut self.started];
        for (stage, ends) in stages.into_iter().zip(places.windows(2)) {
            stage.push(ends[1].since(ends[0]));
        }
    }
}
