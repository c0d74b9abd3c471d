use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{sleep, timeout};

use super::*;
use crate::operator::uptime::testing;

/// The store as the owners of one shard see it.
#[derive(Debug, Default)]
struct Shared {
    owner: Mutex<i64>,
    claims: Mutex<Claims>,
    results: Mutex<BTreeMap<(i64, String), CheckResult>>,
    /// Every result that was ever published.
    history: Mutex<Vec<(String, CheckResult)>>,
    fails: AtomicBool,
}

#[derive(Clone, Debug)]
struct Store {
    epoch: i64,
    shared: Arc<Shared>,
}

impl Store {
    fn works(&self) -> Result<(), LedgerError> {
        let fails = self.shared.fails.load(Ordering::SeqCst);
        if fails { Err(LedgerError::Failed("out of order".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Ledger for Store {
    async fn load(&self) -> Result<Claims, LedgerError> {
        self.works()?;
        Ok(self.shared.claims.lock().unwrap().clone())
    }

    async fn save(&self, claims: &Claims) -> Result<(), LedgerError> {
        sleep(Duration::from_millis(3)).await;
        self.works()?;
        if *self.shared.owner.lock().unwrap() != self.epoch {
            return Err(LedgerError::NotOurs);
        }
        // Serialized, because the store keeps JSON.
        let json = serde_json::to_vec(claims).unwrap();
        *self.shared.claims.lock().unwrap() = serde_json::from_slice(&json).unwrap();
        Ok(())
    }

    async fn publish(&self, key: &str, result: &CheckResult) -> Result<(), LedgerError> {
        self.works()?;
        self.shared.results.lock().unwrap().insert((self.epoch, key.to_owned()), result.clone());
        self.shared.history.lock().unwrap().push((key.to_owned(), result.clone()));
        Ok(())
    }

    async fn retract(&self, key: &str) -> Result<(), LedgerError> {
        self.works()?;
        self.shared.results.lock().unwrap().remove(&(self.epoch, key.to_owned()));
        Ok(())
    }
}

/// A target that answers after a while, and counts concurrent requests.
#[derive(Debug, Default)]
struct Target {
    takes_ms: u64,
    asks: AtomicUsize,
    most: AtomicUsize,
    panics: AtomicBool,
}

#[async_trait]
impl Probe for Target {
    async fn run(&self, check: &Check) -> Probed {
        assert!(!self.panics.load(Ordering::SeqCst), "on purpose");
        if check.key().name.starts_with("hung") {
            sleep(Duration::from_millis(9_900)).await;
            return Probed {
                verdict: Verdict::Down,
                latency: None,
                certificate_expires: None,
                message: "no answer".into(),
            };
        }
        let asks = 1 + self.asks.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(asks, Ordering::SeqCst);
        sleep(Duration::from_millis(self.takes_ms)).await;
        self.asks.fetch_sub(1, Ordering::SeqCst);
        Probed {
            verdict: Verdict::Up,
            latency: None,
            certificate_expires: None,
            message: String::new(),
        }
    }
}

/// A cluster in which one node at a time owns the only shard.
struct Fixture {
    shared: Arc<Shared>,
    target: Arc<Target>,
    pool: Pool,
    open: Arc<AtomicBool>,
    checks: watch::Sender<Arc<Checks>>,
    now: Arc<dyn Fn() -> u64 + Send + Sync>,
    epoch: i64,
}

struct Owner {
    cancel: CancellationToken,
    task: AbortOnDropHandle<Result<(), LedgerError>>,
}

impl Fixture {
    fn new(checks: impl IntoIterator<Item = Check>, target: Target) -> Self {
        Self {
            shared: Arc::default(),
            target: Arc::new(target),
            pool: Pool::new(64),
            open: Arc::new(AtomicBool::new(true)),
            checks: watch::Sender::new(Arc::new(Checks::of(checks))),
            now: virtual_clock(),
            epoch: 0,
        }
    }

    /// Starts a new owner of the shard.
    fn start(&mut self) -> Owner {
        self.epoch += 1;
        *self.shared.owner.lock().unwrap() = self.epoch;
        let open = Arc::clone(&self.open);
        let runner = ShardRunner {
            shard: ShardId(0),
            shards: 1,
            epoch: ShardEpoch(self.epoch),
            probe: Arc::<Target>::clone(&self.target),
            ledger: Arc::new(Store { epoch: self.epoch, shared: Arc::clone(&self.shared) }),
            gate: Arc::new(move || open.load(Ordering::SeqCst)),
            pool: self.pool.clone(),
            now_unix_ms: Arc::clone(&self.now),
            metrics: UptimeMetrics::unregistered(),
        };
        let cancel = CancellationToken::new();
        let run = run_shard(runner, self.checks.subscribe(), cancel.clone());
        Owner { cancel, task: AbortOnDropHandle::new(tasks::spawn("owner", run)) }
    }

    fn history(&self) -> Vec<CheckResult> {
        self.shared.history.lock().unwrap().iter().map(|(_, result)| result.clone()).collect()
    }

    /// Asserts that no slot was run twice, and that each result names an earlier slot with a result. Returns
    /// how many slots in between were missed.
    fn missed_without_a_slot_run_twice(&self) -> u64 {
        let history = self.shared.history.lock().unwrap();
        let keys: BTreeSet<&String> = history.iter().map(|(key, _)| key).collect();
        let mut missed = 0;
        for key in keys {
            let results = history.iter().filter(|(of, _)| of == key).map(|(_, result)| result);
            let mut told: Vec<u64> = Vec::new();
            for CheckResult { due_unix_ms, after_unix_ms, .. } in results {
                assert!(
                    told.last().is_none_or(|last| last < due_unix_ms),
                    "{due_unix_ms} of {key} after {told:?}"
                );
                let is_told = after_unix_ms.is_none_or(|after| told.contains(&after));
                assert!(is_told, "{after_unix_ms:?} of {key} was never told: {told:?}");
                missed += told.last().map_or(0, |last| (due_unix_ms - last) / 1000 - 1);
                told.push(*due_unix_ms);
            }
        }
        missed
    }
}

impl Owner {
    async fn stop(self) -> Result<(), LedgerError> {
        self.cancel.cancel();
        self.task.await.unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "paused time, as the runner's own sleeps see it")]
fn virtual_clock() -> Arc<dyn Fn() -> u64 + Send + Sync> {
    let began = tokio::time::Instant::now();
    Arc::new(move || 1_700_000_000_000 + u64::try_from(began.elapsed().as_millis()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_check_is_run_once_in_each_of_its_slots() {
    let mut fixture =
        Fixture::new([testing::check("a", 1)], Target { takes_ms: 100, ..Target::default() });
    let owner = fixture.start();
    sleep(Duration::from_millis(10_500)).await;
    owner.stop().await.unwrap();
    let history = fixture.history();
    assert!((11..=12).contains(&history.len()), "the slot it was found in, and ten or eleven more");
    assert!(history.windows(2).all(|pair| pair[1].due_unix_ms - pair[0].due_unix_ms == 1000));
    assert!(
        history[1..].iter().all(|result| result.ran_unix_ms - result.due_unix_ms < 10),
        "{history:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_moves_goes_on_with_the_next_slot() {
    let mut fixture =
        Fixture::new([testing::check("a", 1)], Target { takes_ms: 100, ..Target::default() });
    for _ in 0..20 {
        let owner = fixture.start();
        sleep(Duration::from_millis(730)).await;
        owner.stop().await.unwrap();
    }
    let history = fixture.history();
    assert!(history.len() >= 14, "{}", history.len());
    assert!(history.windows(2).all(|pair| pair[1].due_unix_ms - pair[0].due_unix_ms == 1000));
    assert!(history.windows(2).all(|pair| pair[1].after_unix_ms == Some(pair[0].due_unix_ms)));
    assert_eq!(fixture.missed_without_a_slot_run_twice(), 0);
}

#[tokio::test(start_paused = true)]
async fn over_random_moves_and_crashes_each_slot_is_run_once_or_told_as_missed() {
    let mut missed = 0;
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let names = ["a", "b", "c", "d", "e"];
        let target = Target { takes_ms: random.random_range(1..900), ..Target::default() };
        let mut fixture = Fixture::new(names.map(|name| testing::check(name, 1)), target);
        for _ in 0..30 {
            let owner = fixture.start();
            sleep(Duration::from_millis(random.random_range(0..2500))).await;
            if random.next_u32().is_multiple_of(3) {
                drop(owner);
                sleep(Duration::from_millis(random.random_range(0..3000))).await;
            } else {
                owner.stop().await.unwrap();
            }
        }
        let owner = fixture.start();
        sleep(Duration::from_secs(3)).await;
        owner.stop().await.unwrap();
        missed += fixture.missed_without_a_slot_run_twice();
    }
    assert!(missed > 100, "only {missed} slots were missed: the owners did not die in a run");
}

#[tokio::test(start_paused = true)]
async fn on_cancel_no_run_begins_and_those_that_go_on_end() {
    let checks = ["a", "b", "c"].map(|name| testing::check(name, 1));
    let mut fixture = Fixture::new(checks, Target { takes_ms: 800, ..Target::default() });
    let owner = fixture.start();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.target.asks.load(Ordering::SeqCst), 3);
    owner.stop().await.unwrap();
    assert_eq!(fixture.history().len(), 3);
    let claims = fixture.shared.claims.lock().unwrap().clone();
    assert!(
        claims.values().all(|claim| claim.told_unix_ms == Some(claim.due_unix_ms)),
        "{claims:?}"
    );
}

/// Starts an owner at the beginning of a slot of the check; returns the slot, too.
async fn start_with_a_slot(fixture: &mut Fixture, check: &Check) -> (Owner, u64) {
    let now = (fixture.now)();
    let slot = check.timing().after(check.timing().slot_at(now));
    sleep(slot.due_in(now)).await;
    (fixture.start(), slot.0)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_is_given_back_and_the_next_owner_has_a_result_for_its_interval() {
    let check = testing::check("a", 10);
    // Each run hangs until its timeout, which is about as long as the interval.
    let target = Target { takes_ms: 9_900, ..Target::default() };
    let mut fixture = Fixture::new([check.clone()], target);
    let (owner, slot) = start_with_a_slot(&mut fixture, &check).await;
    sleep(Duration::from_secs(4)).await;
    let cancelled = (fixture.now)();
    owner.stop().await.unwrap();
    let took = (fixture.now)() - cancelled;
    assert!((1000..1100).contains(&took), "{took} ms");
    assert_eq!(fixture.history(), []);
    let owner = fixture.start();
    sleep(Duration::from_secs(30)).await;
    owner.stop().await.unwrap();
    let history = fixture.history();
    let told: Vec<u64> = history.iter().map(|result| result.due_unix_ms).collect();
    assert_eq!(told, [slot, slot + 10_000, slot + 20_000], "none twice, none left out");
    assert!(history.iter().all(|result| result.epoch == ShardEpoch(2)), "{history:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_given_back_before_what_still_runs_has_ended() {
    let [long, short] =
        [("long", 100), ("short", 10)].map(|(name, secs)| testing::check(name, secs));
    let target = Target { takes_ms: 9_900, ..Target::default() };
    let mut fixture = Fixture::new([long.clone(), short.clone()], target);
    let now = (fixture.now)();
    let slot = short.timing().after(short.timing().slot_at(now));
    // Too late in its slot for the short run to be aborted.
    sleep(slot.due_in(now) + Duration::from_millis(8_500)).await;
    let owner = fixture.start();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(fixture.target.asks.load(Ordering::SeqCst), 2);
    owner.cancel.cancel();
    sleep(Duration::from_millis(1100)).await;
    let claims = fixture.shared.claims.lock().unwrap().clone();
    assert!(!claims.contains_key(long.key()) && claims.contains_key(short.key()), "{claims:?}");
    assert!(!owner.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_when_the_shard_was_asked_back_is_not_begun() {
    let check = testing::check("a", 10);
    let mut fixture = Fixture::new([check.clone()], Target::default());
    let (owner, _) = start_with_a_slot(&mut fixture, &check).await;
    // The claim is not answered yet.
    sleep(Duration::from_millis(1)).await;
    owner.stop().await.unwrap();
    assert_eq!(fixture.target.most.load(Ordering::SeqCst), 0);
    assert_eq!(*fixture.shared.claims.lock().unwrap(), Claims::new());
}

#[tokio::test(start_paused = true)]
async fn a_run_is_not_broken_off_when_the_next_owner_could_not_run_it_in_time() {
    let check = testing::check("a", 10);
    let target = Target { takes_ms: 9_900, ..Target::default() };
    let mut fixture = Fixture::new([check.clone()], target);
    let (owner, slot) = start_with_a_slot(&mut fixture, &check).await;
    sleep(Duration::from_millis(8_500)).await;
    owner.stop().await.unwrap();
    let told: Vec<u64> = fixture.history().iter().map(|result| result.due_unix_ms).collect();
    assert_eq!(told, [slot]);
}

#[tokio::test(start_paused = true)]
async fn dropped_it_ends_all_runs_at_once() {
    let mut fixture =
        Fixture::new([testing::check("a", 1)], Target { takes_ms: 800, ..Target::default() });
    let owner = fixture.start();
    sleep(Duration::from_millis(100)).await;
    drop(owner);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(fixture.history(), []);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_run_without_authority() {
    let mut fixture = Fixture::new([testing::check("a", 1)], Target::default());
    fixture.open.store(false, Ordering::SeqCst);
    let owner = fixture.start();
    sleep(Duration::from_millis(3200)).await;
    assert_eq!((fixture.history().len(), fixture.shared.claims.lock().unwrap().len()), (0, 0));
    fixture.open.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    assert!(!fixture.history().is_empty());
    owner.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_former_owner_runs_nothing_and_says_so() {
    let mut fixture = Fixture::new([testing::check("a", 1)], Target::default());
    let former = fixture.start();
    sleep(Duration::from_millis(100)).await;
    let ran = fixture.history().len();
    *fixture.shared.owner.lock().unwrap() = 99;
    let ended = timeout(Duration::from_secs(30), former.task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(LedgerError::NotOurs)), "{ended:?}");
    assert_eq!(fixture.history().len(), ran);
}

#[tokio::test(start_paused = true)]
async fn no_more_checks_run_at_once_than_allowed() {
    let names: Vec<String> = (0..20).map(|n| format!("check-{n}")).collect();
    let checks = names.iter().map(|name| testing::check(name, 60));
    let mut fixture = Fixture::new(checks, Target { takes_ms: 100, ..Target::default() });
    fixture.pool = Pool::new(3);
    let owner = fixture.start();
    sleep(Duration::from_secs(20)).await;
    owner.stop().await.unwrap();
    assert!(fixture.history().len() >= 20);
    assert_eq!(fixture.target.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn targets_that_hang_do_not_hold_up_those_that_answer() {
    let hung = (0..200).map(|n| testing::check(&format!("hung-{n}"), 10));
    let well = (0..20).map(|n| testing::check(&format!("well-{n}"), 2));
    let target = Target { takes_ms: 20, ..Target::default() };
    let mut fixture = Fixture::new(hung.chain(well), target);
    let owner = fixture.start();
    // Time until every check has run once: 220 runs of 10 s, 48 at a time.
    sleep(Duration::from_secs(60)).await;
    let settled = (fixture.now)();
    sleep(Duration::from_secs(60)).await;
    let ended = (fixture.now)();
    drop(owner);
    for check in (0..20).map(|n| testing::check(&format!("well-{n}"), 2)) {
        let key = result_key(ShardId(0), check.key());
        let history = fixture.shared.history.lock().unwrap();
        let told =
            history.iter().filter(|(of, result)| *of == key && result.due_unix_ms >= settled);
        let slots: Vec<u64> = told.map(|(_, result)| result.due_unix_ms).collect();
        assert!(slots.windows(2).all(|pair| pair[1] - pair[0] == 2000), "{key}: {slots:?}");
        assert!(slots.len() as u64 >= (ended - settled) / 2000 - 1, "{key}: {slots:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_comes_later_knows_which_targets_answer() {
    let hung = (0..200).map(|n| testing::check(&format!("hung-{n}"), 10));
    let well = testing::check("well", 2);
    let mut fixture =
        Fixture::new(hung.chain([well.clone()]), Target { takes_ms: 20, ..Target::default() });
    let owner = fixture.start();
    sleep(Duration::from_secs(60)).await;
    owner.stop().await.unwrap();
    let taken_over = (fixture.now)();
    let owner = fixture.start();
    sleep(Duration::from_secs(5)).await;
    drop(owner);
    let key = result_key(ShardId(0), well.key());
    let history = fixture.shared.history.lock().unwrap();
    let runs = history.iter().filter(|(of, told)| *of == key && told.ran_unix_ms >= taken_over);
    assert!(runs.count() >= 2, "it waited for targets that hang");
}

#[tokio::test(start_paused = true)]
async fn a_check_is_run_again_soon_after_a_clock_that_was_an_hour_ahead() {
    let mut fixture = Fixture::new([testing::check("a", 10)], Target::default());
    let (right, ahead) = (Arc::clone(&fixture.now), Arc::new(AtomicBool::new(true)));
    let is_ahead = Arc::clone(&ahead);
    fixture.now =
        Arc::new(move || right() + 3_600_000 * u64::from(is_ahead.load(Ordering::SeqCst)));
    let owner = fixture.start();
    sleep(Duration::from_secs(15)).await;
    ahead.store(false, Ordering::SeqCst);
    let set_right = (fixture.now)();
    sleep(Duration::from_secs(45)).await;
    owner.stop().await.unwrap();
    let runs =
        fixture.history().iter().filter(|told| told.due_unix_ms < set_right + 45_000).count();
    assert!((4..=6).contains(&runs), "{runs}");
    // The stored claims must not mislead another owner either.
    ahead.store(true, Ordering::SeqCst);
    let owner = fixture.start();
    sleep(Duration::from_secs(15)).await;
    drop(owner);
    ahead.store(false, Ordering::SeqCst);
    let before = fixture.history().len();
    let owner = fixture.start();
    sleep(Duration::from_secs(35)).await;
    owner.stop().await.unwrap();
    assert!(fixture.history().len() >= before + 3);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_out_of_order_nothing_runs_and_afterwards_the_gap_is_told() {
    let mut fixture = Fixture::new([testing::check("a", 1)], Target::default());
    let owner = fixture.start();
    sleep(Duration::from_millis(1500)).await;
    fixture.shared.fails.store(true, Ordering::SeqCst);
    let before = fixture.history().len();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(fixture.history().len(), before);
    fixture.shared.fails.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(3)).await;
    owner.stop().await.unwrap();
    let missed = fixture.missed_without_a_slot_run_twice();
    assert!((8..=11).contains(&missed), "{missed}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_check_is_run_at_once_and_a_removed_one_leaves_no_result() {
    let mut fixture = Fixture::new([testing::check("a", 3600)], Target::default());
    let owner = fixture.start();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.history().len(), 1);
    fixture.checks.send_replace(Arc::new(Checks::of([testing::check("a", 3599)])));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.history().len(), 2);
    fixture.checks.send_replace(Arc::default());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.shared.results.lock().unwrap().len(), 0);
    owner.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_removed_while_it_runs_leaves_no_result() {
    let mut fixture =
        Fixture::new([testing::check("a", 3600)], Target { takes_ms: 800, ..Target::default() });
    let owner = fixture.start();
    sleep(Duration::from_millis(100)).await;
    fixture.checks.send_replace(Arc::default());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.history().len(), 1);
    assert_eq!(fixture.shared.results.lock().unwrap().len(), 0);
    owner.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_that_panics_is_a_failure_and_does_not_end_the_check() {
    let mut fixture = Fixture::new([testing::check("a", 1)], Target::default());
    fixture.target.panics.store(true, Ordering::SeqCst);
    let owner = fixture.start();
    sleep(Duration::from_millis(3500)).await;
    owner.stop().await.unwrap();
    let failures: Vec<u32> = fixture.history().iter().map(|result| result.failures).collect();
    assert!(failures.starts_with(&[1, 2, 3, 4]), "{failures:?}");
}
