//! `gapura doctor`: looks at everything that a server needs, changes nothing, and says of each fault
//! what to do about it.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use actix_web::web::block;
use rustix::fs::Access;

use super::mark::{Mark, USUAL};
use super::say;
use crate::audit;
use crate::clock::{Clock, SystemClock, Timestamp, WORST_SKEW, apart, side};
use crate::config::{Config, DatabaseUrl, REDIS_PORT, is_open_to_others, place_of};
use crate::db::{Compared, Db, compared, upkeep};
use crate::keys::{self, SigningKey};
use crate::keystore::{Keystore, KeystoreUnavailable, RedisStore};
use crate::metrics::http::disk_free;
use crate::outage::in_one_line;
use crate::session::{self, STRANGERS};
use crate::vault::AppKeys;

/// A signing key should not sign for longer than this.
const KEY_AGE: Duration = Duration::from_secs(365 * 86_400);
const SKEW: Duration = Duration::from_secs(1);
/// Events from so far ahead were not just written by a node whose clock is a little fast.
const FUTURE: Duration = Duration::from_secs(30);
/// From further ahead than this nobody just waits for them.
const FAR_FUTURE: Duration = Duration::from_secs(300);
/// Space below which the next hours may fill the disk, and below which anything may.
const LITTLE_SPACE: u64 = 1_000_000_000;
const NO_SPACE: u64 = 100_000_000;
/// Links that Linux follows from one to the next.
const LINKS: usize = 40;
const NO_KEY: &str = "there is no signing key yet; the first start makes one";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// It works, but not as it should in earnest.
    Doubtful,
    Bad,
}

/// What was found.
#[derive(Debug)]
struct Finding(State, String);

fn good(sentence: impl fmt::Display) -> Finding {
    Finding(State::Good, sentence.to_string())
}

fn doubtful(sentence: impl fmt::Display) -> Finding {
    Finding(State::Doubtful, sentence.to_string())
}

fn bad(sentence: impl fmt::Display) -> Finding {
    Finding(State::Bad, sentence.to_string())
}

/// Prints what is found, and counts what is bad.
#[derive(Default)]
struct Report {
    faults: usize,
}

impl Report {
    fn add(
        &mut self,
        what: &str,
        findings: impl IntoIterator<Item = Finding>,
    ) -> Result<(), String> {
        for Finding(state, sentence) in findings {
            let word = match state {
                State::Good => "ok",
                State::Doubtful => "warn",
                State::Bad => "FAIL",
            };
            self.faults += usize::from(state == State::Bad);
            say(format_args!("{word:<5} {what}: {}", in_one_line(sentence)))?;
        }
        Ok(())
    }
}

/// Looks at everything; an error if something is bad.
pub async fn run(config: &Config) -> Result<(), String> {
    let mut report = Report::default();
    report.add("settings", settings(config))?;
    report.add("public URL", public_url(config))?;
    report.add("files", files(config))?;
    report.add("disk", disk_free(config).map(space))?;
    let mark = Mark::of(&config.data_dir);
    let alone = matches!(config.database, DatabaseUrl::Sqlite(_));
    report.add("clock", set_back(&mark, alone, SystemClock.now()))?;
    let (findings, db) = database(config).await;
    report.add("database", findings)?;
    if let Some(db) = &db {
        report.add("keys", keys(config, db).await)?;
        report.add("clock", events(db, mark.read(), alone).await)?;
    }
    report.add("Redis", redis(config, db.as_ref()).await)?;
    match report.faults {
        0 => Ok(()),
        1 => Err("one check failed".to_owned()),
        faults => Err(format!("{faults} checks failed")),
    }
}

fn settings(config: &Config) -> Vec<Finding> {
    let mut found: Vec<Finding> = config.doubts.iter().map(doubtful).collect();
    let set = config.shown.iter().filter(|shown| shown.2 != "default");
    found.push(good(format_args!(
        "{} are set, the others are defaults (`gapura config` shows all)",
        set.count()
    )));
    if !config.rate_limits {
        found.push(doubtful(
            "GAPURA_RATE_LIMITS is off: passwords can be guessed as fast as the machine allows; remove it",
        ));
    }
    if let Some(address) = config.metrics_bind
        && !address.ip().is_loopback()
    {
        found.push(doubtful(format_args!(
            "metrics are served at {address}: see to it that only Prometheus reaches it (GAPURA_METRICS_BIND)"
        )));
    }
    found
}

fn public_url(config: &Config) -> Vec<Finding> {
    let Some(url) = &config.public_url else {
        return vec![doubtful(
            "GAPURA_PUBLIC_URL is unset, so whatever a request says in `Host` is believed, and cookies are not `Secure`: set it before others can reach this server",
        )];
    };
    let host = url.host_str().unwrap_or_default();
    if !config.is_https() {
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_local = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        return vec![match is_local {
            true => good(format_args!("{url} is on this machine alone")),
            false => doubtful(format_args!(
                "{url} is not https: cookies are not `Secure`, and passwords travel in clear; put a proxy with TLS before it and set GAPURA_PUBLIC_URL to its https address"
            )),
        }];
    }
    let session = crate::session::cookies::session_name(config);
    let mut found = vec![good(format_args!(
        "{url}; the session cookie is `{session}`, `Secure`"
    ))];
    if config.trusted_proxies.is_empty() {
        found.push(doubtful(
            "https needs a proxy in front, and none is in GAPURA_TRUSTED_PROXIES: everybody seems to come from its address, and shares its limits",
        ));
    }
    found
}

/// The data directory, where one is used, and what lies in it.
fn files(config: &Config) -> Vec<Finding> {
    // Without a `/` at its end, which would name what a link leads to.
    let dir = &config.data_dir.components().collect::<PathBuf>();
    let sqlite = match &config.database {
        DatabaseUrl::Sqlite(file) => Some(file),
        DatabaseUrl::Postgres(_) => None,
    };
    let name = dir.display();
    let is_there = dir.symlink_metadata().is_ok();
    // Itself, or what it would be made in.
    let mut places = dir.ancestors();
    let place = places.find(|place| place.symlink_metadata().is_ok());
    let place = place.unwrap_or(Path::new("."));
    let is_usable = may_be_added_to(place);
    if config.grows_in().is_none() && !config.app_keys.is_empty() {
        let mut found = vec![good("nothing secret is kept on this node")];
        if !is_usable {
            found.push(doubtful(format_args!(
                "what time it is cannot be kept in {name}: make it a directory of the server's user (`chown`)"
            )));
        }
        return found;
    }
    if is_there && !dir.is_dir() {
        return vec![bad(format_args!(
            "{name} is no directory, or leads nowhere"
        ))];
    }
    if !is_there {
        return vec![match is_usable {
            true => doubtful(format_args!(
                "{name} is not there; the first start makes it"
            )),
            false => bad(format_args!(
                "{name} is not there, and this user may not make it: make it, or look at GAPURA_DATA_DIR"
            )),
        }];
    }
    let mut found = Vec::new();
    let inside = std::fs::read_dir(dir).map(|entries| {
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.is_file()).collect::<Vec<_>>()
    });
    let mut files = match inside {
        Ok(files) => files,
        Err(error) => return vec![bad(format_args!("{}: {error}", dir.display()))],
    };
    // Where it is a link, the others lie beside what it leads to.
    let sqlite = sqlite.map(|file| match file.is_symlink() {
        true => file.canonicalize().unwrap_or_else(|_| file.clone()),
        false => file.clone(),
    });
    for suffix in ["", "-wal", "-shm"] {
        let beside = sqlite.as_ref();
        let beside = beside.map(|file| PathBuf::from(format!("{}{suffix}", file.display())));
        files.extend(beside.filter(|file| file.exists() && !file.starts_with(dir)));
    }
    files.sort();
    let closed = |path: &Path, mode: &str| {
        bad(format_args!(
            "{} can be reached by others; run `chmod {mode} {0}`, and consider what is in it leaked",
            path.display()
        ))
    };
    if is_open_to_others(dir) {
        found.push(closed(dir, "700"));
    }
    for path in files.iter().filter(|path| is_open_to_others(path)) {
        found.push(closed(path, "600"));
    }
    for path in files.iter().chain([dir]) {
        let mut wanted = Access::READ_OK | Access::WRITE_OK;
        wanted.set(Access::EXEC_OK, path == dir);
        if rustix::fs::access(path, wanted).is_err() {
            let owned = std::fs::metadata(path).map(|data| data.permissions().mode() & 0o777);
            found.push(bad(format_args!(
                "{} cannot be read and written by this user (mode {:o}); run this as the server's user, or `chown` it",
                path.display(),
                owned.unwrap_or_default()
            )));
        }
    }
    if found.is_empty() {
        found.push(good(format_args!(
            "{} and the {} files are their owner's alone",
            dir.display(),
            files.len()
        )));
    }
    found
}

/// Whether it is a directory in which this user may make and reach files.
fn may_be_added_to(place: &Path) -> bool {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    place.is_dir() && rustix::fs::access(place, wanted).is_ok()
}

fn space(free: u64) -> Finding {
    let megabytes = free / 1_000_000;
    match free {
        0..NO_SPACE => bad(format_args!(
            "only {megabytes} MB are left, and logins stop when there is none: make room (`gapura cleanup` frees pages inside the file, not the disk)"
        )),
        NO_SPACE..LITTLE_SPACE => doubtful(format_args!("{megabytes} MB are left: make room soon")),
        _ => good(format_args!("{megabytes} MB are left")),
    }
}

/// What a start would do where the SQLite file is not there.
fn not_there(config: &Config, file: &Path) -> Finding {
    let name = file.display();
    if config.data_dir.join("app.key").exists() {
        return bad(format_args!(
            "{name} is gone, though its key is there: restore a copy, or look whether DATABASE_URL is right"
        ));
    }
    // It is made where a link leads to; with the data directory and what that lies in, which `files` has
    // looked at, and no other.
    let links = std::iter::successors(Some(file.to_owned()), |link| {
        Some(link.parent()?.join(link.read_link().ok()?))
    });
    let made = links.take(LINKS + 1).last().unwrap_or_default();
    let parent = made.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let (data, place) = (whole(&config.data_dir), whole(parent));
    let is_looked_at = data == place || !parent.exists() && data.starts_with(place);
    if !is_looked_at && !may_be_added_to(parent) {
        return bad(format_args!(
            "{name} is not there, and in {} this user may not make it: make that directory, or look at DATABASE_URL",
            parent.display()
        ));
    }
    doubtful(format_args!(
        "{name} is not there; the first start makes it"
    ))
}

/// The same place by its only name, whether it is there or not.
fn whole(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components()
        .fold(PathBuf::new(), |mut place, part| match part {
            Component::ParentDir => {
                place.pop();
                place
            }
            part => {
                place.push(part);
                place.canonicalize().unwrap_or(place)
            }
        })
}

/// What the database says, and a way to ask it more if it can be used.
async fn database(config: &Config) -> (Vec<Finding>, Option<Db>) {
    let mut found = Vec::new();
    let url = config.database.clone();
    if let DatabaseUrl::Sqlite(file) = &url {
        let name = file.display();
        match file.try_exists() {
            Ok(true) => {}
            Ok(false) => return (vec![not_there(config, file)], None),
            Err(error) => {
                found.push(bad(format_args!(
                    "{name}: {error}; run this as the server's user, or look at DATABASE_URL"
                )));
                return (found, None);
            }
        }
        let path = file.clone();
        let checked = block(move || upkeep::quick_check(&path)).await;
        let checked = checked.map_err(|error| error.to_string()).flatten();
        let broken = match checked {
            Ok(findings) => findings.into_iter().next(),
            Err(error) => Some(error),
        };
        if let Some(broken) = broken {
            found.push(match broken.contains("locked") {
                true => bad(format_args!(
                    "{name}: {broken}; {}",
                    what_to_do(&broken, "")
                )),
                false => bad(format_args!(
                    "{name} is damaged: {broken}; stop the servers and restore a copy"
                )),
            });
            return (found, None);
        }
    }
    let asked = url.clone();
    let condition = block(move || upkeep::examine(&asked)).await;
    let condition = match condition.map_err(|error| error.to_string()).flatten() {
        Ok(condition) => condition,
        Err(error) => {
            found.push(bad(format_args!(
                "{} cannot be reached: {}; {}",
                url.place(),
                error.trim_end(),
                what_to_do(&error, "look whether it runs, and at DATABASE_URL")
            )));
            return (found, None);
        }
    };
    let version = &condition.version;
    found.push(match &url {
        DatabaseUrl::Sqlite(file) => good(format_args!("{version}, {} is whole", file.display())),
        DatabaseUrl::Postgres(_) => good(format_args!("{version} answers at {}", url.place())),
    });
    if !condition.takes_changes {
        found.push(bad(
            "it takes no changes: a replica, whose primary DATABASE_URL should name, or default_transaction_read_only is on",
        ));
        return (found, None);
    }
    if !condition.is_durable {
        found.push(doubtful(
            "synchronous_commit is off: a power cut may bring ended logins back; set it to on",
        ));
    }
    let db = match Db::open_patient(&url, 1) {
        Ok(db) => db,
        Err(error) => {
            found.push(bad(error));
            return (found, None);
        }
    };
    let began = SystemClock.now();
    match db.clock().await {
        Ok(Some(theirs)) => found.push(skew("the database", theirs, began)),
        Ok(None) => {}
        Err(error) => found.push(bad(error)),
    }
    let compared = block(move || compared(&url).map_err(|error| error.to_string())).await;
    match compared.map_err(|error| error.to_string()).flatten() {
        Ok(Compared { pending, .. }) if !pending.is_empty() => {
            found.push(bad(format_args!(
                "migrations are pending, {}: run `gapura migrate`, or start a server, which does the same",
                pending.join(", ")
            )));
            return (found, None);
        }
        Ok(Compared { unknown, .. }) if !unknown.is_empty() => found.push(doubtful(format_args!(
            "it is newer than this program, by {}: this node serves all the same; upgrade it when it suits",
            unknown.join(", ")
        ))),
        Ok(_) => found.push(good("migrations are up to date")),
        Err(error) => {
            found.push(bad(error));
            return (found, None);
        }
    }
    match db.write(upkeep::delete_nothing).await {
        Ok(()) => found.push(good("every table is there and can be changed")),
        Err(error) => {
            let cause = error.cause();
            let help = what_to_do(&cause, "look into pg_stat_activity for who holds a table");
            found.push(bad(format_args!("{cause}: {help}")));
        }
    }
    if let Err(error) = db.write(upkeep::find_room).await {
        let cause = error.cause();
        // A user who may not try may yet do all that a server does.
        if !cause.contains("permission denied") {
            let help = what_to_do(&cause, "nobody can sign in");
            found.push(bad(format_args!("{cause}: {help}")));
        }
    }
    (found, Some(db))
}

/// What helps against an error of a database's, by the words in it.
fn what_to_do(error: &str, otherwise: &'static str) -> &'static str {
    const MORE: &str = "raise its max_connections, of which each node takes up to 16";
    let helps = [
        ("connection slots", MORE),
        ("too many clients", MORE),
        (
            "authentication failed",
            "look at user and password in DATABASE_URL",
        ),
        ("WRONGPASS", "look at user and password in REDIS_URL"),
        ("NOAUTH", "REDIS_URL needs its password"),
        (
            "permission denied for schema",
            "make this user the database's owner: `ALTER DATABASE … OWNER TO …`",
        ),
        ("permission denied", "`GRANT` this user what is missing"),
        ("No space left", "make room on its disk: nobody can sign in"),
        (
            "is locked",
            "another program keeps the file to itself: look which (`fuser`), and end it",
        ),
        (
            "readonly database",
            "`chown` it to the server's user, and look how its disk is mounted",
        ),
        ("relation ", "a table is missing: restore a copy"),
        ("no such table", "a table is missing: restore a copy"),
        (
            "does not exist",
            "look at user and name in DATABASE_URL, or create what is missing",
        ),
    ];
    let found = helps.iter().find(|(said, _)| error.contains(said));
    found.map_or(otherwise, |found| found.1)
}

/// Compares a clock that was read since `began` with ours.
fn skew(whose: &str, theirs: Timestamp, began: Timestamp) -> Finding {
    judge_skew(
        whose,
        side(theirs, began),
        apart(theirs, began, SystemClock.now()),
    )
}

fn judge_skew(whose: &str, side: &str, off: Duration) -> Finding {
    let apart = format!(
        "this machine's clock is {:.1} s {side} that of {whose}",
        off.as_secs_f64()
    );
    if off > WORST_SKEW {
        bad(format_args!(
            "{apart}: nodes that disagree refuse each other's tokens; let NTP set both"
        ))
    } else if off > SKEW {
        doubtful(format_args!("{apart}; let NTP set both"))
    } else {
        good(format_args!("the clock of {whose} agrees with this one"))
    }
}

/// Whether servers here have told a later time than it is by now. Where they are `alone` they may go
/// on so; other nodes would not understand them.
fn set_back(mark: &Mark, alone: bool, now: Timestamp) -> Option<Finding> {
    let by = now.until(mark.read()?);
    let (file, back) = (mark.file().display(), in_words(by));
    let in_step = (now + 2 * by).rfc3339();
    (by > USUAL).then(|| match alone {
        true => doubtful(format_args!(
            "this machine's clock was set back by {back}; servers here go on at half the pace, and will be in step again at about {in_step}. \
             If it is right now, nothing else has to be done; where that is too long, stop the server, remove {file}, and start it again"
        )),
        false => bad(format_args!(
            "stop this node, remove {file}, and start it again, once this machine's clock is right: it was set back by {back}, and until about {in_step} \
             this node keeps the time that it told before, and it and the others refuse each other's tokens"
        )),
    })
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// What has been written by a clock that is ahead of ours.
async fn events(db: &Db, mark: Option<Timestamp>, alone: bool) -> Vec<Finding> {
    match db.read(audit::latest).await {
        Ok(latest) => vec![judge_latest(latest, mark, alone, SystemClock.now())],
        Err(error) => vec![bad(error)],
    }
}

fn judge_latest(
    latest: Option<Timestamp>,
    mark: Option<Timestamp>,
    alone: bool,
    now: Timestamp,
) -> Finding {
    let Some(at) = latest.filter(|at| *at > now + FUTURE) else {
        return good("nothing in the database is from the future");
    };
    let ahead = now.until(at);
    let told = format!(
        "the latest event is from {}, {} ahead of this clock: ",
        at.rfc3339(),
        in_words(ahead)
    );
    if mark.is_some_and(|mark| at <= mark + FUTURE) {
        doubtful(format_args!(
            "{told}servers here are as far ahead since this clock was set back, see above"
        ))
    } else if ahead <= FAR_FUTURE {
        doubtful(format_args!(
            "{told}a node's clock is fast or was, or this one has gone back; where NTP sets them, nothing else has to be done, and it is over by then"
        ))
    } else {
        let said = format_args!(
            "{told}this clock has gone back, or another node's is ahead or was; let NTP set them. Where they are right by now, start anew what was \
             ahead (`this machine's clock was set back` in its log), and wait: this is over by then. Logins that began ahead end as much later: `gapura session list` shows them first, `gapura session revoke` ends them"
        );
        // Whether this clock is right the database's knows, which is told apart.
        match alone {
            true => bad(said),
            false => doubtful(said),
        }
    }
}

async fn keys(config: &Config, db: &Db) -> Vec<Finding> {
    match keys::exist(db).await {
        Ok(true) => {}
        Ok(false) => return vec![doubtful(NO_KEY)],
        Err(error) => return vec![bad(error)],
    }
    let app_keys = match AppKeys::load(config) {
        Ok(app_keys) => app_keys,
        Err(error) => return vec![bad(error)],
    };
    let now = SystemClock.now();
    let lifetime = config.clocks.login_lifetime;
    match keys::examine(db, app_keys, lifetime, now).await {
        Ok(keys) => signing_keys(config, &keys, now),
        Err(error) => vec![bad(error)],
    }
}

fn signing_keys(config: &Config, keys: &[SigningKey], now: Timestamp) -> Vec<Finding> {
    let Some(signer) = keys::signer(keys, |key| &key.entry, now) else {
        return vec![doubtful(NO_KEY)];
    };
    let (id, from) = (&signer.entry.id, signer.entry.signs_from);
    let mut found = vec![good("the app key opens every key in the database")];
    let age = now.since(from);
    found.push(if from > now {
        bad(format_args!(
            "no signing key has begun to sign, {id} does at {}: is this clock right? If so, `gapura keys rotate`",
            from.rfc3339()
        ))
    } else if age > KEY_AGE {
        doubtful(format_args!(
            "{id} has signed for {} days: run `gapura keys rotate`",
            age.as_secs() / 86_400
        ))
    } else {
        let retired = keys.iter().filter(|key| key.entry.signs_from < from);
        let signs = format!("{id} ({}) signs", signer.entry.algorithm.name());
        match retired.count() {
            0 => good(signs),
            1 => good(format_args!("{signs}, one that is retired still recognises")),
            more => good(format_args!("{signs}, {more} that are retired still recognise")),
        }
    });
    let newest = keys.first().map(|key| key.entry.algorithm);
    if newest != Some(config.jwt_algorithm) {
        found.push(doubtful(format_args!(
            "GAPURA_JWT_ALGORITHM is {}, which no key signs by yet; the next start makes one",
            config.jwt_algorithm.name()
        )));
    }
    found
}

async fn redis(config: &Config, db: Option<&Db>) -> Vec<Finding> {
    let Some(url) = &config.redis_url else {
        return vec![match config.database {
            DatabaseUrl::Sqlite(_) => good("not used; sessions are kept in the database file"),
            DatabaseUrl::Postgres(_) => doubtful(
                "not used, so sessions are kept on this node alone: set REDIS_URL before there is a second",
            ),
        }];
    };
    let place = place_of(url.expose(), REDIS_PORT).unwrap_or_else(|| "REDIS_URL".to_owned());
    let began = SystemClock.now();
    let examined = async {
        let store = RedisStore::open(url.expose(), 1)?;
        let (clock, said) = store.examine().await?;
        Ok::<_, KeystoreUnavailable>((clock, said, Keystore::Redis(store)))
    };
    let (clock, said, keystore) = match examined.await {
        Ok(examined) => examined,
        Err(error) => {
            return vec![bad(format_args!(
                "{place}: {error}; {}",
                what_to_do(&error.to_string(), "look whether it runs, and at REDIS_URL")
            ))];
        }
    };
    let mut found = vec![good(format_args!(
        "{} answers at {place}",
        said.get("redis_version")
            .map_or_else(|| "it".to_owned(), |version| format!("version {version}"))
    ))];
    found.push(skew("Redis", clock, began));
    found.extend(redis_settings(|name| said.get(name).map(String::as_str)));
    if let Err(error) = keystore.ping().await {
        found.push(bad(format_args!(
            "it takes no changes ({error}), and nobody can sign in: where it is full, raise maxmemory or look what fills it"
        )));
        return found;
    }
    if let Some(db) = db {
        let idle_timeout = config.clocks.session_idle_timeout;
        let asked = session::strangers(db, &keystore, idle_timeout, SystemClock.now());
        match asked.await {
            Ok(0) => found.push(good("it knows the sessions that the database knows")),
            Ok(_) => found.push(bad(STRANGERS)),
            Err(error) => found.push(bad(error.cause().unwrap_or_default())),
        }
    }
    found
}

/// What Redis tells of itself (`INFO`).
fn redis_settings<'a>(said: impl Fn(&str) -> Option<&'a str>) -> Vec<Finding> {
    let mut found = Vec::new();
    if said("role") == Some("slave") {
        found.push(bad(
            "it is a replica, which takes no changes: point REDIS_URL at the primary",
        ));
    }
    let policy = said("maxmemory_policy").unwrap_or("unknown");
    let bytes = |name| {
        said(name)
            .and_then(|bytes| bytes.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (used, most) = (bytes("used_memory"), bytes("maxmemory"));
    let is_limited = most > 0;
    if is_limited && used > most / 5 * 4 {
        found.push(doubtful(format_args!(
            "{} of {} MB of memory are in use, and when it is full nobody can sign in: raise maxmemory, or look what fills it",
            used / 1_000_000,
            most / 1_000_000
        )));
    }
    found.push(match (policy, is_limited) {
        ("noeviction", _) => good("it never throws sessions away to make room (noeviction)"),
        (_, true) => bad(format_args!(
            "maxmemory-policy is {policy}: when it is full, people are logged out; run `redis-cli config set maxmemory-policy noeviction`, and put it into redis.conf"
        )),
        (_, false) => doubtful(format_args!(
            "maxmemory-policy is {policy}, which would log people out once maxmemory is set: make it noeviction"
        )),
    });
    found.push(match said("aof_enabled") {
        Some("1") => good("it keeps an append-only file, so a restart logs nobody out"),
        _ => doubtful(
            "it keeps no append-only file: its restart logs browsers out (`appendonly yes` in redis.conf)",
        ),
    });
    for (name, word) in [
        ("aof_last_write_status", "append-only file"),
        ("rdb_last_bgsave_status", "snapshot"),
    ] {
        if said(name).is_some_and(|status| status != "ok") {
            found.push(bad(format_args!(
                "its last {word} could not be written: look at its log and its disk"
            )));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(found: &[Finding]) -> Vec<State> {
        found.iter().map(|finding| finding.0).collect()
    }

    #[test]
    fn little_space_and_clocks_that_disagree_are_told() {
        assert_eq!(space(5_000_000_000).0, State::Good);
        assert_eq!(space(500_000_000).0, State::Doubtful);
        assert_eq!(space(50_000_000).0, State::Bad);
        for (seconds, state) in [(0, State::Good), (3, State::Doubtful), (6, State::Bad)] {
            let off = Duration::from_secs(seconds);
            assert_eq!(judge_skew("Redis", "behind", off).0, state, "{seconds}");
        }
        let now = SystemClock.now();
        let hour = Duration::from_secs(3600);
        assert_eq!(skew("Redis", now, now).0, State::Good);
        assert_eq!(skew("Redis", now - hour, now).0, State::Bad);
        assert_eq!(skew("Redis", now + hour, now).0, State::Bad);
    }

    #[test]
    fn a_redis_that_loses_sessions_is_told() {
        let judge = |said: &'static [(&str, &str)]| {
            states(&redis_settings(|name| {
                said.iter()
                    .find(|known| known.0 == name)
                    .map(|known| known.1)
            }))
        };
        let (good, doubtful, bad) = (State::Good, State::Doubtful, State::Bad);
        assert_eq!(
            judge(&[
                ("maxmemory", "0"),
                ("maxmemory_policy", "noeviction"),
                ("aof_enabled", "1")
            ]),
            [good, good]
        );
        assert_eq!(
            judge(&[
                ("maxmemory", "9"),
                ("maxmemory_policy", "allkeys-lru"),
                ("aof_enabled", "0")
            ]),
            [bad, doubtful]
        );
        let full = [
            ("used_memory", "81"),
            ("maxmemory", "100"),
            ("maxmemory_policy", "noeviction"),
            ("aof_enabled", "1"),
        ];
        let found = redis_settings(|name| {
            full.iter()
                .find(|known| known.0 == name)
                .map(|known| known.1)
        });
        assert_eq!(states(&found), [doubtful, good, good]);
        assert_eq!(
            judge(&[("maxmemory", "0"), ("maxmemory_policy", "volatile-ttl")]),
            [doubtful, doubtful]
        );
        let failing = [
            ("role", "slave"),
            ("maxmemory_policy", "noeviction"),
            ("aof_enabled", "1"),
            ("aof_last_write_status", "err"),
            ("rdb_last_bgsave_status", "err"),
        ];
        let found = redis_settings(|name| {
            failing
                .iter()
                .find(|known| known.0 == name)
                .map(|known| known.1)
        });
        assert_eq!(states(&found), [bad, good, good, bad, bad]);
    }
}
