//! The commands that show a cluster: `status`, `nodes`, `leader`, `shards`.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use reqwest::Url;
use tokio::sync::watch;

use super::{
    args::{ClusterArgs, StoreKind},
    connect::{self, NodeClient},
    exit::{Exit, Failure},
    live::{self, Live, Moved, patience},
    output::{self, Format, Layout, Table},
    report::Report,
};
use crate::{
    clock,
    engine::{BootTime, ClusterView, Holder},
    store::{Store, StoreError},
    tasks::Tasks,
};

/// Whom to ask, and how to print the answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,

    /// Ask this node's status server instead of the store
    #[arg(long, value_name = "URL", env = "BELLWETHER_URL", value_parser = connect::node_url)]
    pub(crate) url: Option<Url>,

    /// Whom to ask: the store, or the Kubernetes API server, where the leader keeps a picture of the cluster in
    /// its Election
    #[arg(
        long,
        value_name = "WHERE",
        env = "BELLWETHER_FROM",
        value_enum,
        default_value_t,
        conflicts_with = "url"
    )]
    pub(crate) from: Origin,

    /// Format of the output
    #[arg(
        long,
        short = 'o',
        value_name = "FORMAT",
        env = "BELLWETHER_OUTPUT",
        value_enum,
        default_value_t
    )]
    pub(crate) output: Format,
}

/// Source of the state that a read command shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Origin {
    /// The cluster's keys in its store.
    #[default]
    #[value(alias = "etcd")]
    Store,
    /// A picture of it, where there is only kubectl's access.
    Election,
}

/// Source of the answers.
pub(crate) enum Source {
    Store(Arc<dyn Store>),
    Node(NodeClient),
    Election,
}

impl ReadArgs {
    /// Connects to the source that the flags name.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if a flag is wrong.
    pub(crate) fn source(&self) -> Result<Source, Failure> {
        match (&self.url, self.from) {
            (Some(url), _) => Ok(Source::Node(NodeClient::new(url, self.cluster.timeout)?)),
            (None, Origin::Election) => Ok(Source::Election),
            (None, Origin::Store) => Ok(Source::Store(connect::store(&self.cluster)?)),
        }
    }

    /// Reads the present state of the cluster.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the source does not answer.
    pub(crate) async fn report(&self) -> Result<Report, Failure> {
        match self.source()? {
            Source::Node(node) => Ok(Report::of_status(node.status().await?)),
            Source::Election => {
                let (election, place) =
                    self.cluster.api.election(self.cluster.cluster.cluster()).await?;
                Ok(Report::of_election(&place, election, clock::unix_ms()))
            }
            Source::Store(store) => {
                let (keys, kind) = (&self.cluster.cluster, self.cluster.kind());
                let view =
                    live::read(&*store, keys, self.cluster.timeout).await.map_err(reading(kind))?;
                let name = view.leader().and_then(|it| store.name_of(it.lease));
                Ok(Report::of_view(keys.cluster(), &view, None, None).naming(name))
            }
        }
    }

    /// Same as [`report`](Self::report), but names a leader only if it acts: waits for the leader's next
    /// beat.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the source does not answer.
    async fn judged_report(&self) -> Result<Report, Failure> {
        let Source::Store(store) = self.source()? else { return self.report().await };
        let (keys, kind) = (self.cluster.cluster.clone(), self.cluster.kind());
        let name = keys.cluster().to_owned();
        let mut live =
            Live::open(store, keys, self.cluster.timeout).await.map_err(reading(kind))?;
        let silence = live.silence_of_the_leader().await.map_err(reading(kind))?;
        let report = Report::of_view(&name, &live.view, live.last_beat_unix_ms, silence);
        Ok(report.naming(live.leader_name()))
    }
}

fn reading(kind: StoreKind) -> impl Fn(StoreError) -> Failure {
    move |error| Failure::of_store(kind, "reading the cluster", &error)
}

/// Shows a cluster: its leader, nodes and work
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// Keep showing it as it changes, until Ctrl-C
    #[arg(long, short = 'w', env = "BELLWETHER_WATCH")]
    watch: bool,
}

/// Runs the command `status`.
///
/// # Errors
///
/// A [`Failure`] if the source does not answer.
pub(crate) async fn status(args: StatusArgs) -> Result<(), Failure> {
    if !args.watch {
        let report = args.read.judged_report().await?;
        return print(&args.read, &report, |it| it.render(clock::unix_ms()));
    }
    match args.read.source()? {
        Source::Store(store) => follow_store(&args.read, store).await,
        Source::Node(node) => {
            follow(&args.read, REDRAW_EVERY, async || Ok(Report::of_status(node.status().await?)))
                .await
        }
        Source::Election => follow(&args.read, ASK_EVERY, async || args.read.report().await).await,
    }
}

/// Minimum time between two redraws: the eye follows no faster.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// How often the `Election` is read: the leader checks as often for something new to write into it.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// State that the next redraw shows.
struct Seen {
    view: ClusterView,
    last_beat_unix_ms: Option<u64>,
    /// Time of the leader's last beat, or when this command began to listen.
    heard_at: BootTime,
    problem: Option<String>,
    leader_name: Option<String>,
    /// Number of changes other than beats.
    changes: u64,
}

impl Seen {
    fn of(live: &Live, changes: u64) -> Arc<Self> {
        Arc::new(Self {
            heard_at: live.heard_at,
            view: live.view.clone(),
            last_beat_unix_ms: live.last_beat_unix_ms,
            problem: live.problem.clone(),
            leader_name: live.leader_name(),
            changes,
        })
    }
}

async fn follow_store(read: &ReadArgs, store: Arc<dyn Store>) -> Result<(), Failure> {
    let keys = read.cluster.cluster.clone();
    let name = keys.cluster().to_owned();
    let mut live = Live::open(store, keys, read.cluster.timeout)
        .await
        .map_err(reading(read.cluster.kind()))?;
    let (seen, now) = watch::channel(Seen::of(&live, 1));
    // A task of its own, because each redraw would cancel and restart the read.
    let mut following = Tasks::new();
    following.spawn("follow", async move {
        let mut changes = 1;
        while !seen.is_closed() {
            changes += u64::from(live.moved().await == Moved::More);
            seen.send_replace(Seen::of(&live, changes));
        }
    });
    let screen = Screen::new(read.output);
    let mut redraw = tokio::time::interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown = (0, false, false);
    loop {
        tokio::select! {
            biased;
            // Cancel safe: an ended task that was not taken is returned by the next call.
            Some(ended) = following.join_next() => {
                return Err(Failure::new(Exit::Failed, ended.to_string()));
            }
            // Cancel safe: a missed tick is still due.
            _ = redraw.tick() => (),
        }
        let seen = Arc::clone(&now.borrow());
        let silence = clock::boot_now().since(seen.heard_at);
        let d = seen.view.leader().and_then(|it| it.d);
        let silence = Some(silence).filter(|silence| d.is_some_and(|d| patience(d) < *silence));
        let beat = seen.last_beat_unix_ms;
        let not_current = seen.problem.clone();
        let showing = (seen.changes, silence.is_some(), not_current.is_some());
        let report = Report { not_current, ..Report::of_view(&name, &seen.view, beat, silence) };
        let report = report.naming(seen.leader_name.clone());
        screen.show(&report, showing != shown)?;
        shown = showing;
    }
}

async fn follow(
    read: &ReadArgs,
    every: Duration,
    ask: impl AsyncFn() -> Result<Report, Failure>,
) -> Result<(), Failure> {
    let screen = Screen::new(read.output);
    let mut last = ask().await?;
    screen.show(&last, true)?;
    loop {
        tokio::time::sleep(every).await;
        match ask().await {
            Ok(report) => {
                let changed = Report { revision: last.revision.clone(), ..report.clone() } != last;
                screen.show(&report, changed)?;
                last = report;
            }
            Err(failure) => {
                let is_new = last.not_current.replace(failure.what).is_none();
                screen.show(&last, is_new)?;
            }
        }
    }
}

/// Output of a continuous view: a terminal is redrawn in place, elsewhere each change is appended.
struct Screen {
    format: Format,
    terminal: bool,
}

impl Screen {
    fn new(format: Format) -> Self {
        Self { format, terminal: io::stdout().is_terminal() }
    }

    fn show(&self, report: &Report, changed: bool) -> Result<(), Failure> {
        match (self.format, self.terminal) {
            (Format::Json, _) if changed => output::print_json(report, Layout::Line),
            (Format::Table, false) if changed => {
                output::print(&format!("{}\n", report.render(clock::unix_ms())))
            }
            (Format::Json, _) | (Format::Table, false) => Ok(()),
            (Format::Table, true) => {
                // Moves the cursor home, then clears the rest of each line, then everything below: no
                // flicker.
                let mut text = String::from("\u{1b}[H");
                for line in report.render(clock::unix_ms()).lines() {
                    text.push_str(line);
                    text.push_str("\u{1b}[K\n");
                }
                text.push_str("\u{1b}[J");
                output::print(&text)
            }
        }
    }
}

/// Runs the command `nodes`.
///
/// # Errors
///
/// A [`Failure`] if the source does not answer.
pub(crate) async fn nodes(read: ReadArgs) -> Result<(), Failure> {
    let report = read.judged_report().await?;
    match read.output {
        Format::Json => output::print_json(&report.nodes, Layout::Pretty),
        Format::Table => output::print(&report.render_nodes(clock::unix_ms())),
    }
}

/// Runs the command `leader`. The exit code is 3 if no node leads, 8 if the node in office does not act or
/// the leader is not known.
///
/// # Errors
///
/// A [`Failure`] if the source does not answer, no node leads, the node in office does not act, or the
/// `Election` is too old.
pub(crate) async fn leader(read: ReadArgs) -> Result<(), Failure> {
    let report = read.judged_report().await?;
    match read.output {
        Format::Json => output::print_json(&report.leader, Layout::Pretty)?,
        Format::Table if report.leader.is_some() => {
            output::print(&report.render_leader(clock::unix_ms()))?;
        }
        Format::Table => {}
    }
    if let Some(why) = report.not_known {
        return Err(Failure::new(Exit::Unhealthy, format!("not known which node leads: {why}"))
            .try_this("without --from election the store itself is asked; the nodes' logs say what they wait for"));
    }
    match (report.leader, report.not_acting) {
        (Some(_), _) => Ok(()),
        (None, Some(it)) => Err(Failure::new(
            Exit::Unhealthy,
            format!("nobody acts: {}", it.says()),
        )
        .try_this(
            "`bellwether check` looks at the store; the log of that node says what it waits for",
        )),
        (None, None) => Err(Failure::new(Exit::NotThere, "no node leads now")
            .try_this("`bellwether status --watch` shows whether an election is under way")),
    }
}

/// Shows who works on the shards
#[derive(Args, Debug)]
pub(crate) struct ShardsArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// Only this work type, shard by shard
    #[arg(value_name = "WORK")]
    work: Option<String>,
}

/// Runs the command `shards`.
///
/// # Errors
///
/// A [`Failure`] if the source does not answer, or the work type does not exist.
pub(crate) async fn shards(args: ShardsArgs) -> Result<(), Failure> {
    let mut report = args.read.report().await?;
    if let Some(name) = &args.work {
        if report.election.is_some() {
            return Err(Failure::new(Exit::NotThere, "an Election does not tell of single shards")
                .try_this(
                    "leave --from election out, to ask the store, or name no work, for their numbers",
                ));
        }
        let known: Vec<String> = report.work.iter().map(|it| it.work.clone()).collect();
        report.work.retain(|it| it.work == *name);
        if report.work.is_empty() {
            return Err(Failure::new(Exit::NotThere, format!("no work type is called {name:?}"))
                .try_this(match known.as_slice() {
                    [] => "no node of this cluster offers shard work".to_owned(),
                    known => format!("there are: {}", known.join(", ")),
                }));
        }
    }
    match (args.read.output, args.work) {
        (Format::Json, _) if report.election.is_some() => {
            output::print_json(&report.work_counts, Layout::Pretty)
        }
        (Format::Json, _) => output::print_json(&report.work, Layout::Pretty),
        (Format::Table, None) => output::print(&report.render_work()),
        (Format::Table, Some(_)) => output::print(&shard_by_shard(&report)),
    }
}

fn shard_by_shard(report: &Report) -> String {
    let name = |it: Option<Holder>| it.map_or_else(|| "-".into(), |it| it.to_string());
    let mut table = Table::new(&["SHARD", "PLANNED", "HELD", "STATE"]);
    for work in &report.work {
        for (number, (planned, held)) in (0_u32..).zip(work.planned_for.iter().zip(&work.held_by)) {
            let planned = planned.map(Holder::Node);
            let state = match (planned, *held) {
                _ if work.draining.contains(&number) => "draining",
                (_, None) => "unowned",
                (planned, held) if planned == held => "held",
                _ => "moving",
            };
            table.row([number.to_string(), name(planned), name(*held), state.into()]);
        }
    }
    table.render()
}

/// Prints a report in the form that the flags name.
fn print(
    read: &ReadArgs,
    report: &Report,
    render: impl Fn(&Report) -> String,
) -> Result<(), Failure> {
    match read.output {
        Format::Json => output::print_json(report, Layout::Pretty),
        Format::Table => output::print(&render(report)),
    }
}
