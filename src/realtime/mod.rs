//! Sockets: a client that listens is told at once what would otherwise meet it at its next request.
//!
//! Each node has a [`hub`] with the sockets that it holds. Two tasks go through them, instead of
//! timers for each: one asks the clock and the set of ended logins, without I/O, a few times a second
//! and whenever there is news; the other looks at the activity keys of browser sessions about to end.
//! A socket is never activity. Handlers in `http.rs`, the rules here and in `hub.rs`, the words in
//! `protocol.rs`.

pub mod http;
pub mod hub;
pub mod protocol;

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use self::protocol::{Close, End, Event};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::Clocks;
use crate::error::Reason;
use crate::keystore::KeystoreUnavailable;
use crate::session::{activity_key, idle_end};
use crate::token::personal::Candidate;
use crate::token::personal::memory::{self, Reading};

/// Where nodes tell each other in Redis whose logins have changed.
pub const CHANNEL: &str = "gapura:sessions";

/// How often the clock is asked.
const TICK: Duration = Duration::from_millis(300);
/// After news, how long for more of it: many ends at once are one change of the list.
const BREATH: Duration = Duration::from_millis(30);
/// How long before its end a session is said to expire, unless it is a short one.
const WARN_BEFORE: Duration = Duration::from_secs(600);
/// How often a session that is about to end is looked at, since its end may have moved.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often a personal token is: nothing announces that one was revoked.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(1);
/// After an outage.
const LOOK_LATER: Duration = Duration::from_secs(5);

/// By what a socket was let in.
#[derive(Clone)]
pub enum By {
    /// An access token with this id, signed by that key.
    Token { id: Uuid, key: Uuid },
    /// The cookie of a browser session.
    Session,
    /// A personal token.
    Personal(Arc<Candidate>),
}

/// What lets a socket in.
#[derive(Clone)]
pub struct Pass {
    pub user: Uuid,
    /// A personal token may belong to none.
    pub login: Option<Uuid>,
    pub by: By,
    /// When it is over by itself: the token's end, or the session's hard end.
    pub until: Timestamp,
}

/// What a look at a session's clocks says.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    Over,
    /// It ends soon.
    Near {
        end: End,
        at: Timestamp,
        next: Timestamp,
    },
    /// Nothing to say before then: activity only moves the end to later.
    Far {
        next: Timestamp,
    },
}

/// Judges a browser session by its two ends.
pub fn look(idle_end: Timestamp, hard_end: Timestamp, clocks: &Clocks, now: Timestamp) -> Look {
    let (end, at, whole) = match hard_end <= idle_end {
        true => (End::Lifetime, hard_end, clocks.session_lifetime),
        false => (End::Idle, idle_end, clocks.session_idle_timeout),
    };
    // As the page does (activity.js).
    let lead = match whole < 3 * WARN_BEFORE {
        true => whole / 3,
        false => WARN_BEFORE,
    };
    match () {
        () if at <= now => Look::Over,
        () if at - lead <= now => Look::Near {
            end,
            at,
            next: at.min(now + LOOK_AGAIN),
        },
        () => Look::Far { next: at - lead },
    }
}

/// Watches over the sockets of this node for as long as the process lives.
pub async fn watch(app: Data<App>) {
    tokio::join!(sweep(&app), look_at_all(&app));
}

async fn sweep(app: &App) {
    loop {
        tokio::select! {
            () = sleep(TICK) => {}
            () = app.hub.news() => {}
            () = app.ended.news() => {}
        }
        let threshold = app.config.clocks.refresh_threshold;
        let now = app.clock.now();
        let keys = app.jwt.key_ids();
        app.hub
            .sweep(&app.ended, &keys, threshold, now, Instant::now());
        sleep(BREATH).await;
    }
}

async fn look_at_all(app: &App) {
    loop {
        sleep(TICK).await;
        let now = app.clock.now();
        for (id, pass) in app.hub.due(now) {
            if look_at(app, id, &pass, now).await.is_err() {
                // Nobody is logged out by an outage.
                app.hub.postpone(now + LOOK_LATER);
                break;
            }
        }
    }
}

/// Nobody can be asked.
struct Unknown;

impl From<KeystoreUnavailable> for Unknown {
    fn from(_: KeystoreUnavailable) -> Self {
        Self
    }
}

async fn look_at(app: &App, id: u64, pass: &Pass, now: Timestamp) -> Result<(), Unknown> {
    match (&pass.by, pass.login) {
        (By::Session, Some(login)) => {
            let key = activity_key(&login.to_string());
            let [activity] = app.keystore.get([key.as_str()]).await?;
            let clocks = &app.config.clocks;
            let last_activity = activity.and_then(|text| text.parse().ok());
            let idle_end = last_activity.map(|seconds| {
                idle_end(
                    Timestamp::from_seconds(seconds),
                    clocks.session_idle_timeout,
                )
            });
            match idle_end.map(|idle_end| look(idle_end, pass.until, clocks, now)) {
                None | Some(Look::Over) => app.hub.close(id, Close::SESSION_EXPIRED),
                Some(Look::Far { next }) => app.hub.look_again(id, next, None),
                Some(Look::Near { end, at, next }) => {
                    let event = Event::SessionExpiring { end, ends_at: at };
                    app.hub.look_again(id, next, Some((at, event)));
                }
            }
        }
        (By::Personal(candidate), _) => {
            let reading = memory::read(app, candidate, now).await;
            match reading.map_err(|_| Unknown)? {
                Reading::Good(_) => app.hub.look_again(id, now + LOOK_AT_TOKEN, None),
                Reading::Expired(_) => app.hub.close(id, Close::TOKEN_EXPIRED),
                Reading::Revoked(_) | Reading::Unknown => {
                    app.hub.revoke(id, Reason::Revoked);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Look, look};
    use crate::clock::Timestamp;
    use crate::config::Config;
    use crate::realtime::protocol::End;

    #[test]
    fn the_end_that_comes_first_is_told_ten_minutes_before() {
        let config = Config::from_sources("", [("GAPURA_PUBLIC_URL".into(), String::new())]);
        let clocks = config.expect("settings").clocks;
        let at = |minutes: u64| Timestamp::from_seconds(0) + Duration::from_secs(60 * minutes);
        let judge = |idle, hard, now| look(at(idle), at(hard), &clocks, at(now));
        assert_eq!(judge(100, 200, 89), Look::Far { next: at(90) });
        let near = |end, ends, next| Look::Near {
            end,
            at: at(ends),
            next: at(next),
        };
        assert_eq!(judge(100, 200, 90), near(End::Idle, 100, 91));
        assert_eq!(judge(200, 100, 90), near(End::Lifetime, 100, 91));
        assert_eq!(judge(100, 100, 99), near(End::Lifetime, 100, 100));
        assert_eq!(judge(100, 200, 100), Look::Over);
        assert_eq!(judge(200, 100, 100), Look::Over);
    }
}
