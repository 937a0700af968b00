//! The sockets that this node holds: whose they are, and the one way out to each.
//!
//! Nothing here waits. Each socket has room for a few messages that its client has not yet taken; one
//! that lets them pile up is closed, so that it can hold neither memory nor the others.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_ws::Session as Out;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::Instant;
use uuid::Uuid;

use super::protocol::{Close, Event};
use super::{By, Pass};
use crate::clock::Timestamp;
use crate::error::Reason;
use crate::login::ended::Ended;

/// How long a client has to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sockets of one user, on one node.
const MOST_OF_USER: usize = 20;
/// Sockets from one address that have not said who they are, on one node.
const MOST_STRANGERS: usize = 50;
/// How often a client is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(30);
/// After how long without one it is gone.
const SILENCE: Duration = Duration::from_secs(75);

enum State {
    /// From this address, since then.
    Stranger(String, Timestamp),
    Known(Box<Known>),
}

struct Known {
    pass: Pass,
    /// Of which end it has been told.
    told: Option<Timestamp>,
    /// When to look at it next, where somebody has to be asked.
    due: Timestamp,
}

struct Socket {
    out: Out,
    state: State,
    heard_at: Instant,
    pinged_at: Instant,
}

impl Socket {
    /// Whether there was room.
    fn send(&mut self, event: &Event) -> bool {
        let text = serde_json::to_string(event).unwrap_or_default();
        is_done(self.out.text(text))
    }

    fn close(self, close: Close) {
        // Where there is no room it ends all the same, since this was the last way to it.
        is_done(self.out.close(Some(close.into())));
    }

    fn is_of(&self, user: Uuid) -> bool {
        matches!(&self.state, State::Known(known) if known.pass.user == user)
    }
}

/// Tries to send, without waiting. (Within a task that has sent much already tokio would have it wait
/// for its next turn.)
fn is_done(sending: impl Future<Output = Result<(), actix_ws::Closed>>) -> bool {
    unconstrained(sending)
        .now_or_never()
        .is_some_and(|sent| sent.is_ok())
}

/// What the clock and the set of ended logins make of a socket.
enum Fate {
    Stays,
    Revoked(Reason),
    Closed(Close),
    /// Gone without a word.
    Lost,
}

/// The sockets of this node.
#[derive(Default)]
pub struct Hub {
    sockets: Mutex<HashMap<u64, Socket>>,
    /// Whose logins have changed since the last sweep.
    changed: Mutex<HashSet<Uuid>>,
    news: Notify,
    next: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// A new socket, not let in yet, from `address`; `None`: there are too many such. `is_settled`:
    /// whether it will be let in or closed right away, which needs no limit.
    pub fn open(&self, out: Out, address: String, is_settled: bool, now: Timestamp) -> Option<u64> {
        let mut sockets = locked(&self.sockets);
        let from_there = |socket: &&Socket| matches!(&socket.state, State::Stranger(from, _) if *from == address);
        if !is_settled && sockets.values().filter(from_there).count() >= MOST_STRANGERS {
            return None;
        }
        let (id, at) = (self.next.fetch_add(1, Ordering::Relaxed), Instant::now());
        let socket = Socket {
            out,
            state: State::Stranger(address, now),
            heard_at: at,
            pinged_at: at,
        };
        sockets.insert(id, socket);
        Some(id)
    }

    /// Lets a socket in, or renews it; or closes it, where it is another user's or one too many.
    pub fn let_in(&self, id: u64, pass: Pass, now: Timestamp) {
        let (user, until) = (pass.user, pass.until);
        let mut sockets = locked(&self.sockets);
        let of_user = sockets.iter();
        let others = of_user.filter(|(other, socket)| **other != id && socket.is_of(user));
        let is_one_too_many = others.count() >= MOST_OF_USER;
        let Some(socket) = sockets.get_mut(&id) else {
            return;
        };
        let refusal = match &socket.state {
            State::Known(known) if known.pass.user != user => Some(Close::OTHER_USER),
            State::Stranger(..) if is_one_too_many => Some(Close::TOO_MANY),
            _ => None,
        };
        socket.state = State::Known(Box::new(Known {
            pass,
            told: None,
            due: now,
        }));
        let event = Event::Authenticated {
            user_id: user,
            expires_at: until,
        };
        if (refusal.is_some() || !socket.send(&event))
            && let Some(socket) = sockets.remove(&id)
        {
            socket.close(refusal.unwrap_or(Close::NORMAL));
        }
    }

    /// Closes a socket.
    pub fn close(&self, id: u64, close: Close) {
        if let Some(socket) = self.forget(id) {
            socket.close(close);
        }
    }

    /// Closes a socket whose login has ended, and says why first.
    pub fn revoke(&self, id: u64, reason: Reason) {
        if let Some(socket) = self.forget(id) {
            revoke(socket, reason);
        }
    }

    /// The client is gone, or about to be.
    fn forget(&self, id: u64) -> Option<Socket> {
        locked(&self.sockets).remove(&id)
    }

    /// The client has said something, and wants `pong` where it is a ping. Whether the socket is still
    /// open.
    pub fn heard(&self, id: u64, pong: Option<&[u8]>) -> bool {
        let mut sockets = locked(&self.sockets);
        let Some(socket) = sockets.get_mut(&id) else {
            return false;
        };
        socket.heard_at = Instant::now();
        if let Some(bytes) = pong {
            // An answer that finds no room is one that nobody waits for.
            is_done(socket.out.pong(bytes));
        }
        true
    }

    /// Closes every socket, since this node is about to end.
    pub fn drain(&self) {
        let all = std::mem::take(&mut *locked(&self.sockets));
        for socket in all.into_values() {
            socket.close(Close::GOING_AWAY);
        }
    }

    /// A login of this user has begun, come back or ended, here or on another node.
    pub fn note_change(&self, user_id: &str) {
        if let Ok(user) = Uuid::try_parse(user_id) {
            locked(&self.changed).insert(user);
            self.news.notify_one();
        }
    }

    /// Waits until there is something to tell.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        locked(&self.sockets).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Goes through all sockets: closes those whose time is over, whose login has ended or whose token
    /// was signed by none of these keys, and tells the others what has changed for them.
    pub fn sweep(
        &self,
        ended: &Ended,
        keys: &[Uuid],
        threshold: Duration,
        now: Timestamp,
        at: Instant,
    ) {
        let changed = std::mem::take(&mut *locked(&self.changed));
        let mut sockets = locked(&self.sockets);
        let mut over = Vec::new();
        for (id, socket) in sockets.iter_mut() {
            match fate(socket, &changed, ended, keys, threshold, now, at) {
                Fate::Stays => {}
                fate => over.push((*id, fate)),
            }
        }
        for (id, fate) in over {
            let Some(socket) = sockets.remove(&id) else {
                continue;
            };
            match fate {
                Fate::Revoked(reason) => revoke(socket, reason),
                Fate::Closed(close) => socket.close(close),
                Fate::Lost | Fate::Stays => {}
            }
        }
    }

    /// The sockets about which somebody has to be asked now.
    pub fn due(&self, now: Timestamp) -> Vec<(u64, Pass)> {
        let sockets = locked(&self.sockets);
        let due = sockets
            .iter()
            .filter_map(|(id, socket)| match &socket.state {
                State::Known(known)
                    if known.due <= now && !matches!(known.pass.by, By::Token { .. }) =>
                {
                    Some((*id, known.pass.clone()))
                }
                _ => None,
            });
        due.collect()
    }

    /// Looks at all that are due no sooner than `next`.
    pub fn postpone(&self, next: Timestamp) {
        for socket in locked(&self.sockets).values_mut() {
            if let State::Known(known) = &mut socket.state {
                known.due = known.due.max(next);
            }
        }
    }

    /// Looks at a socket again at `next`, and tells it of an end that it has not been told of.
    pub fn look_again(&self, id: u64, next: Timestamp, near: Option<(Timestamp, Event)>) {
        let mut sockets = locked(&self.sockets);
        let Some(socket) = sockets.get_mut(&id) else {
            return;
        };
        let State::Known(known) = &mut socket.state else {
            return;
        };
        known.due = next;
        if let Some((end, event)) = near
            && known.told.replace(end) != Some(end)
            && !socket.send(&event)
        {
            sockets.remove(&id);
        }
    }
}

fn revoke(mut socket: Socket, reason: Reason) {
    let reason = reason.name();
    socket.send(&Event::SessionRevoked { reason });
    socket.close(Close::TOKEN_REVOKED);
}

fn fate(
    socket: &mut Socket,
    changed: &HashSet<Uuid>,
    ended: &Ended,
    keys: &[Uuid],
    threshold: Duration,
    now: Timestamp,
    at: Instant,
) -> Fate {
    if at.duration_since(socket.heard_at) > SILENCE {
        return Fate::Lost;
    }
    let known = match &mut socket.state {
        // A clock that was set back gives nobody more than twice the time. (A socket may also have come
        // while the sweep that looks at it was already under way, and then be a little younger than now.)
        State::Stranger(_, since) if now < *since + PATIENCE && *since < now + PATIENCE => {
            return Fate::Stays;
        }
        State::Stranger(..) => return Fate::Closed(Close::NOT_AUTHENTICATED),
        State::Known(known) => known,
    };
    let pass = &known.pass;
    let token = match pass.by {
        By::Token { id, .. } => Some(id),
        By::Session | By::Personal(_) => None,
    };
    if let Some(cause) = ended.known_cause(pass.login.into_iter().chain(token)) {
        return Fate::Revoked(cause.reason());
    }
    if let By::Token { key, .. } = &pass.by
        && !keys.contains(key)
    {
        return Fate::Closed(Close::TOKEN_INVALID);
    }
    if pass.until <= now {
        return Fate::Closed(match pass.by {
            By::Session => Close::SESSION_EXPIRED,
            By::Token { .. } | By::Personal(_) => Close::TOKEN_EXPIRED,
        });
    }
    let (user, expires_at) = (pass.user, pass.until);
    let is_expiring = token.is_some() && known.told.is_none() && expires_at - threshold <= now;
    if is_expiring {
        known.told = Some(expires_at);
    }
    let mut has_room = true;
    if is_expiring {
        has_room &= socket.send(&Event::TokenExpiring { expires_at });
    }
    if changed.contains(&user) {
        has_room &= socket.send(&Event::SessionsChanged);
    }
    if at.duration_since(socket.pinged_at) >= PING_EVERY {
        socket.pinged_at = at;
        has_room &= is_done(socket.out.ping(b""));
    }
    match has_room {
        true => Fate::Stays,
        false => Fate::Lost,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::test::TestRequest;
    use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::{Hub, PING_EVERY, SILENCE};
    use crate::clock::Timestamp;
    use crate::login::ended::Ended;
    use crate::realtime::{By, Pass};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    async fn request() -> (HttpRequest, web::Payload) {
        let (req, mut payload) = TestRequest::default()
            .insert_header(("upgrade", "websocket"))
            .insert_header(("connection", "upgrade"))
            .insert_header(("sec-websocket-version", "13"))
            .insert_header(("sec-websocket-key", "x3JJHMbDL1EzLkh9GBhXDw=="))
            .to_http_parts();
        let body = web::Payload::from_request(&req, &mut payload).await;
        (req, body.expect("a payload"))
    }

    /// A hub with a socket of that user, whose client takes nothing. What is returned keeps it open.
    async fn with_one(user: Uuid) -> (Hub, HttpResponse) {
        let (req, body) = request().await;
        let (response, out, _) = actix_ws::handle(&req, body).expect("a handshake");
        let hub = Hub::default();
        let id = hub.open(out, String::new(), false, NOW).expect("room");
        let pass = Pass {
            user,
            login: None,
            by: By::Session,
            until: NOW + Duration::from_secs(86_400),
        };
        hub.let_in(id, pass, NOW);
        (hub, response)
    }

    #[actix_web::test]
    async fn messages_for_a_client_that_takes_none_do_not_pile_up() {
        let user = Uuid::from_u128(1);
        let (hub, _open) = with_one(user).await;
        let ended = Ended::new(Duration::from_secs(5));
        let sweeps = (1..100).take_while(|_| {
            hub.note_change(&user.to_string());
            hub.sweep(&ended, &[], Duration::ZERO, NOW, Instant::now());
            !hub.is_empty()
        });
        assert_eq!(
            sweeps.count(),
            31,
            "beside the first, as many as there is room for"
        );
    }

    #[actix_web::test]
    async fn a_client_that_gives_no_sign_of_life_is_gone() {
        let (ended, began) = (Ended::new(Duration::from_secs(5)), Instant::now());
        let (hub, _open) = with_one(Uuid::from_u128(1)).await;
        let sweep = |at| hub.sweep(&ended, &[], Duration::ZERO, NOW, at);
        sweep(began + PING_EVERY);
        sweep(began + SILENCE);
        assert_eq!(hub.len(), 1);
        sweep(began + SILENCE + Duration::from_secs(1));
        assert!(hub.is_empty());
    }

    #[actix_web::test]
    async fn a_stranger_has_ten_seconds_by_a_clock_that_may_be_set() {
        let ended = Ended::new(Duration::from_secs(5));
        let ms = Duration::from_millis;
        for (now, stays) in [
            (NOW, true),
            // It came while the sweep was under way.
            (NOW - ms(1), true),
            (NOW + ms(9_999), true),
            (NOW + ms(10_000), false),
            (NOW - ms(7_200_000), false),
        ] {
            let (req, body) = request().await;
            let (_open, out, _) = actix_ws::handle(&req, body).expect("a handshake");
            let hub = Hub::default();
            hub.open(out, String::new(), false, NOW).expect("room");
            hub.sweep(&ended, &[], Duration::ZERO, now, Instant::now());
            assert_eq!(!hub.is_empty(), stays, "{now:?}");
        }
    }
}
