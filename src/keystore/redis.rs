//! The keystore in a Redis server.
//!
//! Each thread that asks has a multiplexed connection of its own (up to a fixed number of them), so
//! that what the requests of a worker ask at about the same time goes out in one packet, and no
//! thread ever has to wake another.
//!
//! redis's own `ConnectionManager` is not used: it wants the server to be there at the start, and
//! lets every call wait in its backoff. Here a call waits for the first attempt to connect; once
//! that has failed, calls fail at once while one task per connection keeps trying, so a Redis that
//! comes back is in use again after [`PAUSE`], asked or not.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script,
    ScriptInvocation, Value,
};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::tally::Tally;
use super::{Count, KeystoreUnavailable, milliseconds, number};
use crate::clock::Timestamp;
use crate::metrics::Timing;

/// How long a sign of life is kept there.
const ALIVE_FOR: Duration = Duration::from_secs(60);
/// How long a call may take in all.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// How long one attempt to connect may take.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(1000);
/// How long after a failed attempt the next begins.
const PAUSE: Duration = Duration::from_millis(100);

/// ARGV: number, time to live in ms. A text so that no number passes through a double on its way out.
const RAISE: &str = r"
local held = redis.call('GET', KEYS[1])
if not held or not string.match(held, '^-?%d+$') then return false end
if tonumber(held) >= tonumber(ARGV[1]) then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]";

/// ARGV: text, time to live in ms.
const APPEND: &str = r"
redis.call('APPEND', KEYS[1], ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// ARGV: window in ms. Also gives a window to a counter that somehow has none.
const COUNT: &str = r"
local number = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {number, left}";

/// A Redis server. Cheap to clone.
#[derive(Clone)]
pub struct RedisStore(Arc<Shared>);

struct Shared {
    client: Client,
    links: Box<[watch::Sender<Link>]>,
    append: Script,
    raise: Script,
    count: Script,
    tally: Tally,
    timing: Timing,
}

/// A connection, or why there is none.
enum Link {
    /// Nobody tries to connect.
    Idle,
    /// The first attempt since it was last up is under way.
    Connecting,
    /// The number tells one connection from the one before it.
    Up(u64, MultiplexedConnection),
    /// An attempt has failed; others follow.
    Down(Arc<str>),
}

impl RedisStore {
    /// A store at `url` that keeps up to `connections` connections, made when first needed.
    ///
    /// # Errors
    /// When `url` cannot be the address of a Redis.
    pub fn open(url: &str, connections: usize) -> Result<Self, KeystoreUnavailable> {
        let links = (0..connections.max(1)).map(|_| watch::Sender::new(Link::Idle));
        Ok(Self(Arc::new(Shared {
            client: Client::open(url).map_err(KeystoreUnavailable::new)?,
            links: links.collect(),
            append: Script::new(APPEND),
            raise: Script::new(RAISE),
            count: Script::new(COUNT),
            tally: Tally::default(),
            timing: Timing::default(),
        })))
    }

    /// To open connections of another kind to the same server, as a subscriber needs.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// How long it took, and how often there was no answer.
    pub fn timing(&self) -> &Timing {
        &self.0.timing
    }

    /// Sends `payload` to whoever listens at `channel` now. Nobody may be listening, and after a
    /// connection broke it may arrive twice.
    ///
    /// # Errors
    /// When Redis gives no answer in time.
    pub async fn publish(&self, channel: &str, payload: &str) -> Result<(), KeystoreUnavailable> {
        self.send(&command("PUBLISH", [channel, payload])).await?;
        Ok(())
    }

    /// Listens at `channels` for as long as the process lives: `hear` gets the channel and the payload
    /// of each message. What is sent while Redis is away is missed.
    pub async fn listen(&self, channels: &[&str], hear: impl Fn(&str, &str)) {
        loop {
            if let Err(error) = self.listen_once(channels, &hear).await {
                tracing::debug!(%error, "not listening for announcements");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn listen_once(
        &self,
        channels: &[&str],
        hear: &impl Fn(&str, &str),
    ) -> Result<(), RedisError> {
        let mut subscription = self.client().get_async_pubsub().await?;
        subscription.subscribe(channels).await?;
        let mut messages = subscription.on_message();
        while let Some(message) = messages.next().await {
            hear(
                message.get_channel_name(),
                &message.get_payload::<String>()?,
            );
        }
        Ok(())
    }

    pub(super) async fn get<const N: usize>(
        &self,
        keys: [&str; N],
    ) -> Result<[Option<String>; N], KeystoreUnavailable> {
        let mut values = [const { None }; N];
        if N == 0 {
            return Ok(values);
        }
        let Value::Array(found) = self.send(&command("MGET", keys)).await? else {
            return Err(KeystoreUnavailable::new("an answer that is not a list"));
        };
        for (value, found) in values.iter_mut().zip(found) {
            // What is no text was not stored by us: as good as missing.
            if let Value::BulkString(bytes) = found {
                *value = String::from_utf8(bytes).ok();
            }
        }
        Ok(values)
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<(), KeystoreUnavailable> {
        let mut set = command("SET", [key, value, "PX"]);
        self.send(set.arg(milliseconds(ttl))).await?;
        Ok(())
    }

    pub(super) async fn append(
        &self,
        key: &str,
        text: &str,
        ttl: Duration,
    ) -> Result<(), KeystoreUnavailable> {
        let mut append = self.0.append.key(key);
        append.arg(text).arg(milliseconds(ttl));
        self.ask(Question::Script(&append)).await?;
        Ok(())
    }

    pub(super) async fn replace(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<bool, KeystoreUnavailable> {
        let mut set = command("SET", [key, value, "XX", "PX"]);
        let answer = self.send(set.arg(milliseconds(ttl))).await?;
        Ok(answer != Value::Nil)
    }

    pub(super) async fn raise(
        &self,
        key: &str,
        value: i64,
        ttl: Duration,
    ) -> Result<Option<i64>, KeystoreUnavailable> {
        let mut raise = self.0.raise.key(key);
        raise.arg(value).arg(milliseconds(ttl));
        let answer = self.ask(Question::Script(&raise)).await?;
        let held = Option::<String>::from_owned_redis_value(answer);
        let held = held.map_err(KeystoreUnavailable::new)?;
        Ok(held.and_then(|held| number(&held)))
    }

    pub(super) async fn delete(&self, keys: &[&str]) -> Result<(), KeystoreUnavailable> {
        self.send(::redis::cmd("DEL").arg(keys)).await?;
        Ok(())
    }

    pub(super) async fn count(
        &self,
        key: &str,
        window: Duration,
    ) -> Result<Count, KeystoreUnavailable> {
        let mut count = self.0.count.key(key);
        count.arg(milliseconds(window));
        let answer = self.ask(Question::Script(&count)).await?;
        let answer = <(u64, u64)>::from_owned_redis_value(answer);
        let (number, left) = answer.map_err(KeystoreUnavailable::new)?;
        let resets_in = Duration::from_millis(left);
        Ok(Count { number, resets_in })
    }

    pub(super) async fn ping(&self) -> Result<(), KeystoreUnavailable> {
        let mut set = command("SET", ["gapura:alive", "", "PX"]);
        self.send(set.arg(milliseconds(ALIVE_FOR))).await?;
        Ok(())
    }

    /// What time it is there.
    ///
    /// # Errors
    /// When Redis gives no answer in time.
    pub async fn clock(&self) -> Result<Timestamp, KeystoreUnavailable> {
        let time = self.send(&::redis::cmd("TIME")).await?;
        let time = <(i64, i64)>::from_owned_redis_value(time);
        let (seconds, micros) = time.map_err(KeystoreUnavailable::new)?;
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }

    /// What time it is there, and what the server tells of itself (`INFO`): names and values.
    ///
    /// # Errors
    /// When Redis gives no answer in time.
    pub async fn examine(
        &self,
    ) -> Result<(Timestamp, HashMap<String, String>), KeystoreUnavailable> {
        let clock = self.clock().await?;
        let told = self.send(&::redis::cmd("INFO")).await?;
        let told = String::from_owned_redis_value(told).map_err(KeystoreUnavailable::new)?;
        let lines = told.lines().filter_map(|line| line.split_once(':'));
        let told = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Ok((clock, told.collect()))
    }

    /// What this process counts for itself while Redis is away.
    pub(super) fn tally(&self) -> &Tally {
        &self.0.tally
    }

    async fn send(&self, command: &Cmd) -> Result<Value, KeystoreUnavailable> {
        self.ask(Question::Command(command)).await
    }

    /// Asks on this thread's connection, within the time limit. A connection that turns out to have
    /// been closed, say by a restart since it was last used, is replaced and asked once more: what
    /// happened in between is not the caller's to see, and nothing is asked that must not be twice.
    async fn ask(&self, question: Question<'_>) -> Result<Value, KeystoreUnavailable> {
        let operation = question.name();
        let work = pin!(self.ask_in_time(question));
        self.0.timing.time(operation, work, |_| true).await
    }

    async fn ask_in_time(&self, question: Question<'_>) -> Result<Value, KeystoreUnavailable> {
        let index = this_thread() % self.0.links.len();
        let mut used = None;
        let outcome = timeout(TIME_LIMIT, async {
            let (id, mut connection) = self.0.connection(index).await?;
            used = Some(id);
            let error = match question.ask(&mut connection).await {
                Err(error) if is_broken(&error) => error,
                outcome => return outcome.map_err(KeystoreUnavailable::new),
            };
            self.0.reconnect(index, id);
            if !error.is_io_error() {
                return Err(KeystoreUnavailable::new(error));
            }
            // Seldom, and so not part of what every question carries along.
            let once_more = Box::pin(async {
                let (id, mut connection) = self.0.connection(index).await?;
                used = Some(id);
                let outcome = question.ask(&mut connection).await;
                if outcome.as_ref().is_err_and(is_broken) {
                    self.0.reconnect(index, id);
                }
                outcome.map_err(KeystoreUnavailable::new)
            });
            once_more.await
        })
        .await;
        outcome.unwrap_or_else(|_| {
            if let Some(id) = used {
                self.0.reconnect(index, id);
            }
            Err(KeystoreUnavailable::new("no answer within the time limit"))
        })
    }
}

/// What can be asked of Redis.
enum Question<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
}

impl Question<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Script(_) => "script",
        }
    }

    async fn ask(&self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::Command(command) => {
                let answer = connection.send_packed_command(command).await?;
                answer.extract_error()
            }
            Self::Script(script) => Box::pin(script.invoke_async(connection)).await,
        }
    }
}

impl Shared {
    /// The connection, once there is one.
    async fn connection(
        self: &Arc<Self>,
        index: usize,
    ) -> Result<(u64, MultiplexedConnection), KeystoreUnavailable> {
        let link = &self.links[index];
        loop {
            match &*link.borrow() {
                Link::Up(id, connection) => return Ok((*id, connection.clone())),
                Link::Down(cause) => return Err(KeystoreUnavailable::new(cause)),
                Link::Idle | Link::Connecting => {}
            }
            self.connect_if(index, |link| matches!(link, Link::Idle));
            let mut changes = link.subscribe();
            // Fails only when the sender is gone, and it is ours.
            let _ = changes
                .wait_for(|link| !matches!(link, Link::Connecting))
                .await;
        }
    }

    /// Replaces the connection `broken`, unless that has been done already.
    fn reconnect(self: &Arc<Self>, index: usize, broken: u64) {
        self.connect_if(
            index,
            |link| matches!(link, Link::Up(id, _) if *id == broken),
        );
    }

    fn connect_if(self: &Arc<Self>, index: usize, condition: impl FnOnce(&Link) -> bool) {
        let begin = self.links[index].send_if_modified(|link| {
            let begin = condition(link);
            if begin {
                *link = Link::Connecting;
            }
            begin
        });
        if begin {
            let attempt = Attempt {
                shared: Arc::downgrade(self),
                index,
                finished: false,
            };
            tokio::spawn(attempt.until_it_succeeds());
        }
    }
}

/// The one task that tries to bring up a connection. Dropped before it has, because its thread
/// ends, it leaves the link to the next caller.
struct Attempt {
    shared: Weak<Shared>,
    index: usize,
    finished: bool,
}

impl Attempt {
    async fn until_it_succeeds(mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let settings = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(Duration::from_secs(2));
        let config = AsyncConnectionConfig::new().set_tcp_settings(settings);
        // Ends with the store, too.
        while let Some(client) = self.shared.upgrade().map(|shared| shared.client.clone()) {
            let connect = client.get_multiplexed_async_connection_with_config(&config);
            let cause = match timeout(ATTEMPT_LIMIT, connect).await {
                Ok(Ok(connection)) => {
                    let id = NEXT.fetch_add(1, Ordering::Relaxed);
                    self.finished = true;
                    self.tell(Link::Up(id, connection));
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no connection within the time limit".to_owned(),
            };
            self.tell(Link::Down(cause.into()));
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn tell(&self, link: Link) {
        if let Some(shared) = self.shared.upgrade() {
            shared.links[self.index].send_replace(link);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Another would fare no better.
            self.tell(Link::Down("connecting is not possible".into()));
        } else if !self.finished {
            self.tell(Link::Idle);
        }
    }
}

/// Whether another connection might do better: this one is closed, or leads to a server that has
/// become a replica.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error() || error.kind() == ErrorKind::ReadOnly
}

fn command<const N: usize>(name: &str, arguments: [&str; N]) -> Cmd {
    let bytes = name.len()
        + arguments
            .iter()
            .map(|argument| argument.len())
            .sum::<usize>();
    let mut command = Cmd::with_capacity(N + 2, bytes + 20);
    command.arg(name);
    for argument in arguments {
        command.arg(argument);
    }
    command
}

/// A number of its own for each thread that asks.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}
