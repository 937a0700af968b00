//! What an operator watches, as Prometheus reads it. Names nobody: labels are words of the program, so
//! their number is bounded by the source.
//!
//! What a request with a JWT touches is one plain atomic. What is asked only when somebody looks (the
//! queue, the sockets, the lag of the feed) is looked up then; see [`http`].

pub mod http;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix_web::http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tokio::time::Instant;

use crate::clock::Timestamp;

/// Labels: names and values are words of the program, never anything from outside.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Of what answers within milliseconds when all is well, and is given up after a second or two.
const QUICK: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0,
];
/// Minutes to a month.
const LONG: [f64; 12] = [
    60.0,
    300.0,
    900.0,
    1800.0,
    3600.0,
    14_400.0,
    43_200.0,
    72_000.0,
    86_400.0,
    259_200.0,
    604_800.0,
    2_592_000.0,
];

/// What can come of presenting a refresh or remember token.
const ROTATIONS: [&str; 9] = [
    "rotated", "grace", "sibling", "reused", "ended", "expired", "unknown", "forged", "too_many",
];

/// How long something outside took, and how often it gave no answer.
#[derive(Clone)]
pub struct Timing {
    took: Family<Labels<1>, Histogram>,
    failed: Counter,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            took: Family::new_with_constructor(|| Histogram::new(QUICK)),
            failed: Counter::default(),
        }
    }
}

impl Timing {
    /// Waits for `work` and notes how long that was; `is_outage`: whether an error means that there
    /// was no answer.
    pub async fn time<T, E>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, E>>,
        is_outage: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        let began = Instant::now();
        let outcome = work.await;
        let took = began.elapsed().as_secs_f64();
        self.took
            .get_or_create(&[("operation", operation)])
            .observe(took);
        if outcome.as_ref().is_err_and(is_outage) {
            self.failed.inc();
        }
        outcome
    }
}

/// The queue at the hasher.
#[derive(Clone)]
pub struct Queue {
    /// How long a password waited for a core.
    pub waited: Histogram,
    /// Passwords that found no place in the queue.
    pub refused: Counter,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waited: Histogram::new(QUICK),
            refused: Counter::default(),
        }
    }
}

/// What is only known when somebody looks.
#[derive(Default)]
pub struct Seen {
    pub hashes_waiting: usize,
    pub revocation_lag: Duration,
    pub ended_logins: usize,
    pub sockets: usize,
    /// `None` where nothing grows on this node.
    pub disk_free: Option<u64>,
}

/// Everything that is measured.
pub struct Metrics {
    registry: Registry,
    logins: Family<Labels<2>, Counter>,
    failures: Family<Labels<1>, Counter>,
    accounts_closed: Counter,
    rotations: Family<Labels<2>, Counter>,
    refresh_interval: Histogram,
    login_duration: Family<Labels<2>, Histogram>,
    live_logins: Family<Labels<1>, Gauge>,
    /// By the first digit of the status.
    answers: [Counter; 5],
    hashes_waiting: Gauge,
    revocation_lag: Gauge<f64, AtomicU64>,
    ended_logins: Gauge,
    sockets: Gauge,
    disk_free: Family<Labels<1>, Gauge>,
    reachable: Family<Labels<1>, Gauge>,
    clock_apart: Family<Labels<1>, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    /// Nothing counted yet by a node that starts `now`; beside its own figures it shows those of the database, of Redis where
    /// there is one, and of the hasher.
    pub fn new(database: &Timing, redis: Option<&Timing>, hasher: &Queue, now: Timestamp) -> Self {
        let mut registry = Registry::with_prefix("gapura");
        let list = &mut registry;
        show(
            list,
            "database_duration_seconds",
            "How long requests waited for the database",
            database.took.clone(),
        );
        show(
            list,
            "database_outages",
            "Requests that the database gave no answer to",
            database.failed.clone(),
        );
        if let Some(redis) = redis {
            show(
                list,
                "redis_duration_seconds",
                "How long requests waited for Redis",
                redis.took.clone(),
            );
            show(
                list,
                "redis_outages",
                "Requests that Redis gave no answer to",
                redis.failed.clone(),
            );
        }
        show(
            list,
            "password_hash_wait_seconds",
            "How long passwords waited for a core",
            hasher.waited.clone(),
        );
        show(
            list,
            "password_hashes_refused",
            "Passwords that were refused because too many waited",
            hasher.refused.clone(),
        );
        let started: Gauge<f64, AtomicU64> = show(
            list,
            "start_time_seconds",
            "When this node was started, in Unix seconds",
            Gauge::default(),
        );
        started.set(now.millis() as f64 / 1000.0);
        let answers = show(
            list,
            "answers",
            "Answers, by the class of their status",
            Family::<Labels<1>, Counter>::default(),
        );
        list.register(
            "build",
            "Which version this is",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let metrics = Self {
            logins: show(
                list,
                "logins",
                "Passwords given, by where and with what outcome",
                Family::default(),
            ),
            failures: show(
                list,
                "login_failures",
                "Refused passwords, by reason",
                Family::default(),
            ),
            accounts_closed: show(
                list,
                "accounts_closed",
                "Accounts that too many failures in a row closed to new addresses",
                Counter::default(),
            ),
            rotations: show(
                list,
                "token_rotations",
                "Refresh and remember tokens presented, by what came of it",
                Family::default(),
            ),
            refresh_interval: show(
                list,
                "refresh_interval_seconds",
                "Age of the refresh tokens that were exchanged for their successors",
                Histogram::new(LONG),
            ),
            login_duration: show(
                list,
                "login_duration_seconds",
                "How long logins lasted, by why they ended; each is counted by one node",
                Family::new_with_constructor(|| Histogram::new(LONG)),
            ),
            live_logins: show(
                list,
                "live_logins",
                "Logins that have not ended, in the whole installation, counted now and then",
                Family::default(),
            ),
            hashes_waiting: show(
                list,
                "password_hashes_waiting",
                "Passwords that wait for a core",
                Gauge::default(),
            ),
            revocation_lag: show(
                list,
                "revocation_lag_seconds",
                "Age of this node's knowledge of ended logins",
                Gauge::default(),
            ),
            ended_logins: show(
                list,
                "ended_logins",
                "Ended logins and revoked access tokens that this node knows of",
                Gauge::default(),
            ),
            sockets: show(list, "sockets", "Open WebSockets", Gauge::default()),
            disk_free: show(
                list,
                "disk_free_bytes",
                "Space left for what grows on this node",
                Family::default(),
            ),
            reachable: show(
                list,
                "reachable",
                "Whether it answered when last asked, a second ago: 1 or 0",
                Family::default(),
            ),
            clock_apart: show(
                list,
                "clock_apart_seconds",
                "How far this node's clock is from that one",
                Family::default(),
            ),
            answers: ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|class| answers.get_or_create_owned(&[("class", class)])),
            registry,
        };
        // There from the start, or the first would not be an increase.
        for outcome in ROTATIONS {
            for token in ["refresh", "remember"] {
                drop(metrics.rotations.get_or_create(&rotation(token, outcome)));
            }
        }
        for reason in ["invalid_credentials", "unknown_user", "account_disabled"] {
            drop(metrics.failures.get_or_create(&[("reason", reason)]));
        }
        for kind in ["browser", "api", "confirmation"] {
            let ok = [("kind", kind), ("outcome", "ok")];
            drop(metrics.logins.get_or_create(&ok));
        }
        metrics
    }

    /// Somebody gave a password: `ok`, or the code of the refusal.
    pub fn password_given(&self, kind: &'static str, outcome: &'static str) {
        self.logins
            .get_or_create(&[("kind", kind), ("outcome", outcome)])
            .inc();
    }

    /// A password was refused, and why, which nobody is told.
    pub fn password_refused(&self, reason: &'static str) {
        self.failures.get_or_create(&[("reason", reason)]).inc();
    }

    /// Failures in a row have closed an account to addresses where it was never entered.
    pub fn account_closed(&self) {
        self.accounts_closed.inc();
    }

    /// What came of presenting a refresh or remember token.
    pub fn rotation(&self, token: &'static str, outcome: &'static str) {
        self.rotations
            .get_or_create(&rotation(token, outcome))
            .inc();
    }

    /// A refresh token of that age was exchanged for its successor.
    pub fn refreshed_after(&self, age: Duration) {
        self.refresh_interval.observe(age.as_secs_f64());
    }

    /// A login has ended, wherever that was; no other node counts it.
    pub fn login_ended(&self, kind: &'static str, cause: &'static str, lasted: Duration) {
        self.login_duration
            .get_or_create(&[("kind", kind), ("cause", cause)])
            .observe(lasted.as_secs_f64());
    }

    /// Whether a part that this node stands on answers.
    pub fn set_reachable(&self, part: &'static str, answers: bool) {
        self.reachable
            .get_or_create(&[("part", part)])
            .set(answers.into());
    }

    /// How far this node's clock is from that of a part it stands on.
    pub fn set_clock_apart(&self, part: &'static str, apart: Duration) {
        self.clock_apart
            .get_or_create(&[("part", part)])
            .set(apart.as_secs_f64());
    }

    /// How many logins live in the whole installation.
    pub fn set_live_logins(&self, kind: &'static str, number: i64) {
        self.live_logins
            .get_or_create(&[("kind", kind)])
            .set(number);
    }

    /// A request was answered. One atomic.
    pub fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.answers.get(class) {
            counter.inc();
        }
    }

    /// All of it as text (OpenMetrics 1.0).
    ///
    /// # Errors
    /// When it cannot be written, which is a mistake in the program.
    pub fn text(&self, seen: &Seen) -> Result<String, std::fmt::Error> {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.hashes_waiting.set(whole(seen.hashes_waiting));
        self.revocation_lag.set(seen.revocation_lag.as_secs_f64());
        self.ended_logins.set(whole(seen.ended_logins));
        self.sockets.set(whole(seen.sockets));
        if let Some(free) = seen.disk_free {
            self.disk_free
                .get_or_create(&[("of", "database")])
                .set(i64::try_from(free).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn rotation(token: &'static str, outcome: &'static str) -> Labels<2> {
    [("token", token), ("outcome", outcome)]
}

/// Lists a metric.
fn show<M: Metric + Clone>(list: &mut Registry, name: &str, help: &str, metric: M) -> M {
    list.register(name, help, metric.clone());
    metric
}
