//! The audit log as a person reads it, their own or, as an administrator, everybody's: which part of it is shown, in what words, and how it is drawn. Handlers in
//! `http.rs`, files to take away in `export.rs`; the log itself is [`crate::audit`].

pub mod export;
pub mod http;

use std::time::Duration;

use diesel::QueryResult;
use schemars::JsonSchema;
use serde::Serialize;
use url::form_urlencoded;

use crate::account::User;
use crate::audit::days::{Days, first_shown};
use crate::audit::{self, Event, Filter, Group, Kind, words};
use crate::clock::Timestamp;
use crate::db::AnyConnection;
use crate::figures::{DAY, day_of};
use crate::i18n::Lang;
use crate::web::chart::{Chart, Column, Series, Shape, Tone};
use crate::web::page::{Page, When};

/// How far back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Period {
    Week,
    Month,
    Quarter,
    /// Everything that is kept.
    #[default]
    All,
}

impl Period {
    /// Every period.
    pub const ALL: [Self; 4] = [Self::Week, Self::Month, Self::Quarter, Self::All];

    /// As it stands in an address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::All => "all",
        }
    }

    /// The period of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.name() == name)
    }

    fn from(self, now: Timestamp) -> Option<Timestamp> {
        let days = match self {
            Self::Week => 7,
            Self::Month => 30,
            Self::Quarter => 90,
            Self::All => return None,
        };
        Some(now - Duration::from_secs(days * 86_400))
    }
}

/// What a person has chosen to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// `None`: everything.
    pub show: Option<Group>,
    pub period: Period,
    /// In everybody's log, the username or address of the one whom it shall concern; empty: everybody.
    pub person: String,
}

impl View {
    /// The part of the log it is; of one person's, or of all of it.
    pub fn filter(&self, user_id: Option<String>, now: Timestamp) -> Filter {
        Filter {
            user_id,
            kinds: self.show.map(Group::kinds).unwrap_or_default(),
            from: self.period.from(now),
            to: None,
        }
    }

    /// Its address below `path`, with `more` in the query.
    pub fn address(&self, path: &str, more: Option<(&str, &str)>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(group) = self.show {
            query.append_pair("show", group.name());
        }
        if self.period != Period::All {
            query.append_pair("period", self.period.name());
        }
        if !self.person.is_empty() {
            query.append_pair("person", &self.person);
        }
        if let Some((name, value)) = more {
            query.append_pair(name, value);
        }
        match query.finish() {
            query if query.is_empty() => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }
}

/// An event on a page.
pub struct EventRow {
    /// Something that the person had better look at.
    pub alarming: bool,
    pub when: When,
    pub text: String,
    pub device: String,
    pub address: String,
    /// Whom it concerns, where that is not the same for every event of the page.
    pub person: Option<Named>,
    /// Who did it, where that is told apart.
    pub by: Option<Named>,
}

/// Somebody in a list of events.
#[derive(Clone)]
pub struct Named {
    pub id: String,
    pub name: String,
    pub username: String,
}

impl From<User> for Named {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            name: user.name,
            username: user.username,
        }
    }
}

impl EventRow {
    /// An event as everybody's log tells it: whom it concerns and who did it, as far as they are
    /// among `people`.
    pub fn of_anybody(page: &Page, event: &Event, people: &[Named], now: Timestamp) -> Self {
        let named = |id: &Option<String>| {
            let found = people.iter().find(|known| Some(&known.id) == id.as_ref())?;
            Some(found.clone())
        };
        let row = Self::new(page, event, now);
        let by = named(&event.actor_id).filter(|_| event.is_by_another());
        Self {
            text: match by {
                Some(_) => words::what(page.language(), event),
                None => row.text,
            },
            person: named(&event.user_id),
            by,
            ..row
        }
    }

    /// An event as its page tells it.
    pub fn new(page: &Page, event: &Event, now: Timestamp) -> Self {
        let lang = page.language();
        Self {
            alarming: words::is_alarming(event),
            when: page.when(event.at, now),
            text: words::sentence(lang, event),
            device: words::place(lang, event),
            address: event.ip.clone().unwrap_or_default(),
            person: None,
            by: None,
        }
    }
}

/// An event as the API and the files tell it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventOut {
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    id: String,
    at: Timestamp,
    #[schemars(example = &"login")]
    kind: String,
    /// Whom it happened to.
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    user_id: Option<String>,
    /// Who did it.
    #[schemars(example = &"0199f0c1-2345-7abc-8def-0123456789ab")]
    actor_id: Option<String>,
    login_id: Option<String>,
    #[schemars(example = &"Firefox on Linux")]
    device: Option<String>,
    #[schemars(example = &"192.0.2.7")]
    ip: Option<String>,
    /// What made it happen.
    cause: Option<String>,
    /// What else there is to know.
    detail: Option<String>,
}

impl From<Event> for EventOut {
    fn from(event: Event) -> Self {
        Self {
            id: event.id,
            at: event.at,
            kind: event.kind,
            user_id: event.user_id,
            actor_id: event.actor_id,
            login_id: event.login_id,
            device: event.device,
            ip: event.ip,
            cause: event.cause,
            detail: event.detail,
        }
    }
}

/// How often people got in and failed to, on each of the last days (UTC).
pub struct Attempts {
    logins: Vec<f64>,
    failures: Vec<f64>,
    today: i64,
}

impl Attempts {
    /// Counts those of one person, or of everybody.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn count(
        conn: &mut AnyConnection,
        everybodys: &Days,
        user_id: Option<&str>,
        now: Timestamp,
    ) -> QueryResult<Self> {
        let today = day_of(now);
        let first = first_shown(today);
        let mut days_of = |kind| {
            let Some(user_id) = user_id else {
                return everybodys.count(conn, kind, first, today, now);
            };
            let filter = Filter {
                kinds: vec![kind],
                from: Some(Timestamp::from_millis(first * DAY)),
                ..Filter::of_user(user_id)
            };
            let counted = audit::per_day(conn, &filter)?;
            let of = |day: i64| counted.iter().find(|(counted, _)| *counted == day);
            Ok((first..=today)
                .map(|day| of(day).map_or(0, |(_, count)| *count))
                .collect())
        };
        let mut values = |kind| {
            let days: Vec<i64> = days_of(kind)?;
            QueryResult::Ok(days.into_iter().map(|count| count as f64).collect())
        };
        Ok(Self {
            logins: values(Kind::Login)?,
            failures: values(Kind::LoginFailed)?,
            today,
        })
    }

    /// The chart of them.
    pub fn chart(self, lang: Lang) -> Chart {
        let text = |key: &str| lang.text(key).into_owned();
        let days = first_shown(self.today)..=self.today;
        let column = |day| Column::of_day(Timestamp::from_millis(day * DAY), lang);
        let series = |name, tone, values| Series {
            name: text(name),
            tone,
            values,
        };
        Chart {
            title: text("activity.chart.title"),
            shape: Shape::Bars,
            axis: text("activity.chart.day"),
            columns: days.map(column).collect(),
            series: vec![
                series("activity.chart.logins", Tone::Main, self.logins),
                series("activity.chart.failures", Tone::Bad, self.failures),
            ],
            unit: "",
        }
    }
}
