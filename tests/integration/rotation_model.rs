//! The rules of rotation, told once more and apart from the code, as a model small enough that every
//! interleaving of what a client, a thief, the network and time can do is explored; and the real code
//! held to that model, decision by decision and query by query.

use std::time::Duration;

use diesel::result::Error::RollbackTransaction;
use diesel::{Connection, PgConnection, QueryResult, SqliteConnection};
use gapura::account::{self, Role, User};
use gapura::clock::Timestamp;
use gapura::config::DatabaseUrl;
use gapura::db::AnyConnection;
use gapura::login::rotation::together::Presented;
use gapura::login::rotation::{
    self, Decision, Purpose, Rotation, Rules, Standing, TokenId, decide,
};
use gapura::login::{self, Cause, Client, Kind};
use stateright::{Checker, Model, Property};

use crate::harness::{Backend, Installation};

const GRACE: Duration = Duration::from_secs(10);
/// Time passes in steps of less than a grace; two of them are more than one.
const STEP: Duration = Duration::from_secs(6);

// --- The rules ------------------------------------------------------------------------------------

/// How many steps ago something was; more than a grace is told apart no further.
type Age = u8;
const OLD: Age = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Token {
    parent: Option<u8>,
    /// Presented at least once, and so superseded.
    superseded: Option<Age>,
    /// Its successors, and when the last of them was first given.
    children: Vec<u8>,
    given: Age,
}

/// What is said to who presents a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Said {
    Fresh(u8),
    Newest(u8),
    Sibling(u8),
    Theft,
}

impl Said {
    fn token(self) -> Option<u8> {
        match self {
            Self::Fresh(token) | Self::Newest(token) | Self::Sibling(token) => Some(token),
            Self::Theft => None,
        }
    }
}

/// The tokens of one login, in the order of their making.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    tokens: Vec<Token>,
    over: bool,
    /// Strict mode: a grace of nothing.
    strict: bool,
}

impl Server {
    fn new(strict: bool) -> Self {
        let mut server = Self {
            tokens: Vec::new(),
            over: false,
            strict,
        };
        server.make(None);
        server
    }

    fn make(&mut self, parent: Option<u8>) -> u8 {
        let id = self.tokens.len() as u8;
        self.tokens.push(Token {
            parent,
            superseded: None,
            children: Vec::new(),
            given: 0,
        });
        if let Some(parent) = parent {
            let parent = &mut self.tokens[usize::from(parent)];
            parent.children.push(id);
            parent.superseded.get_or_insert(0);
            parent.given = 0;
        }
        id
    }

    fn token(&self, id: u8) -> &Token {
        &self.tokens[usize::from(id)]
    }

    fn is_used(&self, id: u8) -> bool {
        self.token(id).superseded.is_some()
    }

    fn used_child(&self, id: u8) -> Option<u8> {
        let mut children = self.token(id).children.iter().copied();
        children.find(|child| self.is_used(*child))
    }

    fn has_lost(&self, id: u8) -> bool {
        let winner = self.token(id).parent.and_then(|it| self.used_child(it));
        winner.is_some_and(|winner| winner != id)
    }

    fn newest(&self, id: u8) -> u8 {
        match (self.used_child(id), self.token(id).children.last()) {
            (Some(child), _) => self.newest(child),
            (None, Some(last)) => *last,
            (None, None) => id,
        }
    }

    fn present(&mut self, id: u8) -> Said {
        let token = self.token(id).clone();
        let said = if self.over || self.has_lost(id) {
            Said::Theft
        } else {
            match token.superseded {
                None => Said::Fresh(self.make(Some(id))),
                Some(_) if self.strict => Said::Theft,
                Some(age) if age < OLD => Said::Newest(self.newest(id)),
                Some(_) if self.used_child(id).is_some() => Said::Theft,
                Some(_) if token.given < OLD || token.children.len() == 5 => {
                    Said::Sibling(self.newest(id))
                }
                Some(_) => Said::Sibling(self.make(Some(id))),
            }
        };
        self.over |= said == Said::Theft;
        said
    }

    fn step(&mut self) {
        for token in &mut self.tokens {
            token.given = OLD.min(token.given + 1);
            token.superseded = token.superseded.map(|age| OLD.min(age + 1));
        }
        // Of a token without successors nothing is dated.
        for token in self.tokens.iter_mut().filter(|it| it.children.is_empty()) {
            token.given = 0;
        }
    }

    /// One line goes on: a token that is used has a used parent, and no two of a parent are.
    fn is_one_line(&self) -> bool {
        (0..self.tokens.len() as u8).all(|id| {
            let mut used = self.token(id).children.iter().map(|it| self.is_used(*it));
            used.by_ref().filter(|used| *used).count() <= 1
                && self
                    .token(id)
                    .parent
                    .is_none_or(|parent| self.is_used(parent))
        })
    }

    /// The standing that the code would see of a token.
    fn standing(&self, id: u8, now: Timestamp) -> Standing {
        let token = self.token(id);
        let before = |age: Age| now - STEP * u32::from(age);
        Standing {
            login_over: self.over.then_some(Cause::Theft),
            sibling_won: self.has_lost(id),
            expires_at: now + Duration::from_secs(1),
            superseded_at: token.superseded.map(before),
            successor_given_at: token.superseded.map(|_| before(token.given)),
            successors: token.children.len() as i32,
            successor_used: self.used_child(id).is_some(),
        }
    }

    /// The code decides every token of this state as the model does.
    fn code_agrees(&self) -> bool {
        let now = Timestamp::from_seconds(1_800_000_000);
        let grace = if self.strict { Duration::ZERO } else { GRACE };
        (0..self.tokens.len() as u8).all(|id| {
            let mut after = self.clone();
            let said = after.present(id);
            let made = after.tokens.len() > self.tokens.len();
            let expected = match said {
                Said::Fresh(_) => Decision::Advance,
                Said::Newest(_) => Decision::Newest,
                Said::Sibling(_) if made => Decision::NewSibling,
                Said::Sibling(_) => Decision::SameSibling,
                Said::Theft => Decision::Theft,
            };
            decide(&self.standing(id, now), grace, now) == expected
        })
    }

    /// Whether presenting the token makes another one.
    fn would_make(&self, id: u8) -> bool {
        let mut after = self.clone();
        after.present(id);
        after.tokens.len() > self.tokens.len()
    }
}

// --- The world around them --------------------------------------------------------------------------

/// Who is in play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// A client that waits for one refresh before it sends another. Its request may arrive late and
    /// any number of times while it waits; any of the answers may reach it, or none.
    OneInFlight,
    /// Tabs that share a cookie jar: two requests and two answers on their way, as they please.
    TwoInFlight,
    /// A client as in the first, and a thief who copied its token once.
    Thief,
}

struct Explored {
    world: World,
    most_tokens: usize,
    strict: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Party {
    /// Its newest token; a thief has none before the theft.
    holds: Option<u8>,
    /// The token it has sent and not yet given up, one entry for each request.
    sent: Vec<u8>,
    /// Answers on their way to it.
    answers: Vec<u8>,
    /// Tokens that it has been given since the theft, and how many of those took it further.
    given: Vec<u8>,
    went_on_with: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    server: Server,
    client: Party,
    thief: Party,
    /// How often one was given a token that the other had been given before it.
    shared: u8,
    /// Such a token was given although no grace was running and it was no fifth sibling.
    shared_without_grace: bool,
    /// A request arrived more than a grace after its token had been superseded.
    late_arrival: bool,
    gave_after_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Send,
    /// A request reaches the server; it may be repeated, so it stays in flight.
    Arrive(usize),
    /// A request and its answer are given up: nothing of it comes any more.
    GiveUp(usize),
    Receive(usize),
    Steal,
    /// The thief presents what it holds; the answer reaches it, or not.
    ThiefPresents {
        received: bool,
    },
    Step,
}

impl Explored {
    fn room_for(&self, state: &State, token: u8) -> bool {
        state.server.tokens.len() < self.most_tokens || !state.server.would_make(token)
    }
}

impl Model for Explored {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let client = Party {
            holds: Some(0),
            ..Party::default()
        };
        vec![State {
            server: Server::new(self.strict),
            client,
            thief: Party::default(),
            shared: 0,
            shared_without_grace: false,
            late_arrival: false,
            gave_after_end: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let in_flight = match self.world {
            World::TwoInFlight => 2,
            World::OneInFlight | World::Thief => 1,
        };
        if state.client.sent.len() < in_flight {
            actions.push(Action::Send);
        }
        for (index, token) in state.client.sent.iter().enumerate() {
            if state.client.answers.len() < 2 && self.room_for(state, *token) {
                actions.push(Action::Arrive(index));
            }
            actions.push(Action::GiveUp(index));
        }
        actions.extend((0..state.client.answers.len()).map(Action::Receive));
        if self.world == World::Thief {
            match state.thief.holds {
                None => actions.push(Action::Steal),
                Some(token) if self.room_for(state, token) => actions.extend([
                    Action::ThiefPresents { received: true },
                    Action::ThiefPresents { received: false },
                ]),
                Some(_) => {}
            }
        }
        actions.push(Action::Step);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send => state.client.sent.push(state.client.holds?),
            Action::Arrive(index) => {
                let token = state.client.sent[index];
                let age = state.server.token(token).superseded;
                state.late_arrival |= age == Some(OLD) && self.world == World::TwoInFlight;
                let given = state.present(token, |state| (&mut state.client, &state.thief));
                if let Some(given) = given
                    && !state.client.answers.contains(&given)
                {
                    state.client.answers.push(given);
                }
            }
            Action::GiveUp(index) => {
                state.client.sent.remove(index);
                if self.world != World::TwoInFlight {
                    state.client.answers.clear();
                }
            }
            Action::Receive(index) => {
                let token = state.client.answers.remove(index);
                state.client.holds = Some(token);
                if self.world != World::TwoInFlight {
                    // This was the one refresh; whatever else came of it is over.
                    state.client.sent.clear();
                    state.client.answers.clear();
                }
            }
            Action::Steal => {
                state.thief.holds = state.client.holds;
                // What is on its way is newer than what was stolen, and so is the client's alone.
                state.client.given.clone_from(&state.client.answers);
                state.client.given.sort_unstable();
            }
            Action::ThiefPresents { received } => {
                let token = state.thief.holds?;
                let given = state.present(token, |state| (&mut state.thief, &state.client));
                if received && given.is_some() {
                    state.thief.holds = given;
                }
            }
            Action::Step => state.server.step(),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "an honest client is never logged out",
                |it: &Self, state: &State| it.world != World::OneInFlight || !state.server.over,
            ),
            Property::always(
                "tabs are logged out only by a request that came later than a grace",
                |it: &Self, state: &State| {
                    it.world != World::TwoInFlight || !state.server.over || state.late_arrival
                },
            ),
            Property::always(
                "a thief and a victim both go on only as often as one was given the other's token",
                |_, state: &State| {
                    let both = [&state.client, &state.thief].map(|it| it.went_on_with.len());
                    both.into_iter().min() <= Some(usize::from(state.shared))
                },
            ),
            Property::always(
                "the other's token is given within a grace only",
                |_, state: &State| !state.shared_without_grace,
            ),
            Property::always("one line goes on", |_, state: &State| {
                state.server.is_one_line()
            }),
            Property::always("an ended login gives nothing", |_, state: &State| {
                !state.gave_after_end
            }),
            Property::always("the code decides as the model does", |_, state: &State| {
                state.server.code_agrees()
            }),
            // The exploration gets to what it is about.
            Property::sometimes(
                "a token has been stolen and noticed",
                |it: &Self, state: &State| it.world != World::Thief || state.server.over,
            ),
            Property::sometimes("all tokens are spent", |it: &Self, state: &State| {
                it.strict || state.server.tokens.len() == it.most_tokens
            }),
        ]
    }
}

impl State {
    /// Presents a token and books what that means for who presents it and for the other.
    fn present(&mut self, token: u8, parties: fn(&mut Self) -> (&mut Party, &Party)) -> Option<u8> {
        let was_over = self.server.over;
        let before = self.server.token(token).clone();
        let said = self.server.present(token);
        let given = said.token()?;
        self.gave_after_end |= was_over;
        // Only from the theft on are there two to be told apart.
        if self.thief.holds.is_none() {
            return Some(given);
        }
        let (who, other) = parties(self);
        let already_others = other.given.contains(&given);
        let new_to_who = !who.given.contains(&given);
        if who.given.contains(&token) && !who.went_on_with.contains(&token) {
            who.went_on_with.push(token);
            who.went_on_with.sort_unstable();
        }
        if new_to_who {
            who.given.push(given);
            who.given.sort_unstable();
        }
        if already_others && new_to_who {
            self.shared += 1;
            let within_grace = before.superseded.is_some_and(|age| age < OLD);
            let same_sibling = before.given < OLD || before.children.len() == 5;
            self.shared_without_grace |= !within_grace && !same_sibling;
        }
        Some(given)
    }
}

fn explore(world: World, most_tokens: usize, strict: bool) {
    let model = Explored {
        world,
        most_tokens,
        strict,
    };
    let checked = model.checker().spawn_bfs().join();
    println!(
        "{world:?}, {most_tokens} tokens, strict {strict}: {} states ({} paths), depth {}",
        checked.unique_state_count(),
        checked.state_count(),
        checked.max_depth(),
    );
    checked.assert_properties();
}

#[test]
fn an_honest_client_with_one_refresh_in_flight_is_never_logged_out() {
    explore(World::OneInFlight, 7, false);
}

#[test]
fn tabs_that_share_a_token_are_logged_out_only_by_a_request_later_than_a_grace() {
    explore(World::TwoInFlight, 5, false);
}

#[test]
fn a_thief_and_a_victim_cannot_both_go_on() {
    explore(World::Thief, 5, false);
}

#[test]
fn in_strict_mode_too_a_thief_and_a_victim_cannot_both_go_on() {
    explore(World::Thief, 7, true);
}

// --- What the model leaves out: ends and expiry ---------------------------------------------------------

#[test]
fn what_has_expired_is_expired_and_not_theft_unless_another_went_on_from_it() {
    let now = Timestamp::from_seconds(1_800_000_000);
    let long_ago = now - Duration::from_secs(3600);
    let live = Standing {
        login_over: None,
        sibling_won: false,
        expires_at: now,
        superseded_at: None,
        successor_given_at: None,
        successors: 0,
        successor_used: false,
    };
    let superseded = Standing {
        superseded_at: Some(long_ago),
        successor_given_at: Some(long_ago),
        successors: 1,
        ..live
    };
    let cases = [
        (live, Decision::Expired),
        (superseded, Decision::Expired),
        (
            Standing {
                successor_used: true,
                ..superseded
            },
            Decision::Theft,
        ),
        (
            Standing {
                sibling_won: true,
                ..live
            },
            Decision::Theft,
        ),
        // The last refresh before its end was just now: the grace still holds.
        (
            Standing {
                superseded_at: Some(now),
                ..superseded
            },
            Decision::Newest,
        ),
    ];
    for (standing, expected) in cases {
        assert_eq!(decide(&standing, GRACE, now), expected, "{standing:?}");
    }
    let live = Standing {
        expires_at: now + STEP,
        ..live
    };
    for (cause, expected) in [
        (Cause::LoggedOut, Decision::Theft),
        (Cause::Revoked, Decision::Theft),
        (Cause::PasswordChanged, Decision::Theft),
        (Cause::Theft, Decision::Theft),
        (Cause::Idle, Decision::Expired),
        (Cause::Lifetime, Decision::Expired),
        (Cause::Unused, Decision::Expired),
    ] {
        let over = Standing {
            login_over: Some(cause),
            ..live
        };
        assert_eq!(decide(&over, GRACE, now), expected, "{cause:?}");
    }
}

#[test]
fn a_clock_set_back_does_not_make_an_old_token_young() {
    let now = Timestamp::from_seconds(1_800_000_000);
    let superseded = |ahead: Duration| Standing {
        login_over: None,
        sibling_won: false,
        expires_at: now + Duration::from_secs(86_400),
        superseded_at: Some(now + ahead),
        successor_given_at: Some(now + ahead),
        successors: 1,
        successor_used: true,
    };
    let nodes_apart = superseded(Duration::from_secs(3));
    assert_eq!(decide(&nodes_apart, GRACE, now), Decision::Newest);
    let hours_back = superseded(Duration::from_secs(7200));
    assert_eq!(decide(&hours_back, GRACE, now), Decision::Theft);
}

// --- The real code, on real databases ---------------------------------------------------------------------

/// Every sequence of presentations and steps of time, replayed through the real code.
struct Replay {
    client: Client,
    rules: Rules,
    paths: usize,
}

impl Replay {
    fn explore(
        &mut self,
        conn: &mut AnyConnection,
        model: &Server,
        ids: &[TokenId],
        now: Timestamp,
        depth: usize,
    ) -> QueryResult<()> {
        if depth == 0 {
            self.paths += 1;
            return Ok(());
        }
        // Two presentations without time between them are there anyway; time twice is the same again.
        let mut later = model.clone();
        later.step();
        if later != *model {
            self.explore(conn, &later, ids, now + STEP, depth - 1)?;
        }
        for (index, id) in ids.iter().enumerate() {
            let mut after = model.clone();
            let said = after.present(index as u8);
            let undone = conn.transaction(|conn| {
                let presented = [Presented {
                    token: *id,
                    of_login: None,
                    at: now,
                }];
                let advanced = rotation::advance_together(conn, &presented, self.rules)?;
                let rotation = match advanced.into_iter().next().flatten() {
                    Some(next) => Rotation::Fresh(next),
                    None => rotation::rotate(conn, *id, self.rules, &self.client, now)?,
                };
                let mut ids = ids.to_vec();
                let code_said = match &rotation {
                    Rotation::Fresh(next) => Said::Fresh(index_of(&mut ids, next.token)),
                    Rotation::Newest(next) => Said::Newest(index_of(&mut ids, next.token)),
                    Rotation::Sibling(next) => Said::Sibling(index_of(&mut ids, next.token)),
                    Rotation::Reused { .. } => Said::Theft,
                    Rotation::Expired | Rotation::Unknown | Rotation::TooMany(_) => {
                        panic!("nothing here expires or is limited")
                    }
                };
                assert_eq!(code_said, said, "presenting {index} of {model:?}");
                assert_eq!(ids.len(), after.tokens.len());
                self.explore(conn, &after, &ids, now, depth - 1)?;
                Err::<(), _>(RollbackTransaction)
            });
            match undone {
                Err(RollbackTransaction) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Where the token stands in the order of making; a new one goes to the end.
fn index_of(ids: &mut Vec<TokenId>, token: TokenId) -> u8 {
    let known = ids.iter().position(|id| *id == token);
    known.unwrap_or_else(|| {
        ids.push(token);
        ids.len() - 1
    }) as u8
}

fn replay(backend: Backend, purpose: Purpose, strict: bool, depth: usize) {
    let installation = Installation::new(backend);
    let config = installation.config(&[]);
    std::fs::create_dir_all(&config.data_dir).expect("a data directory");
    gapura::db::migrate(&config.database).expect("migrations apply");
    let mut conn = match &config.database {
        DatabaseUrl::Sqlite(path) => {
            let path = path.to_str().expect("a path in UTF-8");
            AnyConnection::Sqlite(SqliteConnection::establish(path).expect("the file opens"))
        }
        DatabaseUrl::Postgres(url) => {
            AnyConnection::Postgres(PgConnection::establish(url.expose()).expect("it answers"))
        }
    };
    let now = Timestamp::from_seconds(1_800_000_000);
    let client = Client {
        device: "model".to_owned(),
        ip: "192.0.2.1".to_owned(),
    };
    let user = User::new(
        "ada".to_owned(),
        "ada@example.org".to_owned(),
        "Ada".to_owned(),
        Role::User,
        "none".to_owned(),
        now,
    );
    let month = Duration::from_secs(30 * 86_400);
    let (login, first) = conn
        .transaction(|conn| {
            account::insert(conn, &user)?;
            let login = login::begin(conn, &user, Kind::Api, &client, month, now)?;
            let login = login.expect("nobody has changed the account");
            let (first, _) = rotation::begin(conn, &login, purpose, month, now)?;
            Ok::<_, diesel::result::Error>((login, first))
        })
        .expect("a login begins");
    let mut replay = Replay {
        client,
        rules: Rules {
            grace: if strict { Duration::ZERO } else { GRACE },
            lifetime: (purpose == Purpose::Refresh).then_some(month),
            limited: false,
        },
        paths: 0,
    };
    let explored = conn.transaction(|conn| {
        replay.explore(conn, &Server::new(strict), &[first], now, depth)?;
        Err::<(), _>(RollbackTransaction)
    });
    assert_eq!(explored, Err(RollbackTransaction));
    let login = login::by_id(&mut conn, &login.id).expect("it answers");
    assert!(login.is_some_and(|login| login.ended_at.is_none()));
    println!(
        "{backend:?}, {purpose:?}, strict {strict}: {} sequences of {depth}",
        replay.paths,
    );
}

#[test]
fn on_sqlite_the_code_does_what_the_model_says_in_every_sequence() {
    replay(Backend::Embedded, Purpose::Refresh, false, 7);
    replay(Backend::Embedded, Purpose::Remember, false, 6);
    replay(Backend::Embedded, Purpose::Refresh, true, 5);
}

#[test]
fn on_postgresql_the_code_does_what_the_model_says_in_every_sequence() {
    replay(Backend::Shared, Purpose::Refresh, false, 6);
    replay(Backend::Shared, Purpose::Refresh, true, 4);
}
