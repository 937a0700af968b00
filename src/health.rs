//! `/healthz`: the process is alive. `/readyz`: it is able to serve, each part named. Log and metrics
//! are told as well when a part is away, also where nobody asks for anything.

use std::fmt::Display;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::clock::{Timestamp, WORST_SKEW, apart, side};
use crate::keystore::Keystore;
use crate::openapi::{Operation, Output};
use crate::outage::Outage;
use crate::web::Plain;

/// How often database and Redis are asked for a sign of life.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The process is there.
#[derive(Serialize, JsonSchema)]
pub struct Alive {
    #[schemars(extend("const" = "alive"))]
    status: &'static str,
}

/// Whether it is able to serve, and which part is not.
#[derive(Serialize, JsonSchema)]
pub struct Readiness {
    #[schemars(extend("enum" = ["ready", "not ready", "shutting down"]))]
    status: &'static str,
    #[schemars(extend("enum" = ["ok", "unavailable"]))]
    database: &'static str,
    #[schemars(extend("enum" = ["ok", "unavailable"]))]
    store: &'static str,
    #[schemars(extend("enum" = ["ok", "unavailable"]))]
    revocation_feed: &'static str,
}

impl Responder for Readiness {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let status = match self.status {
            "ready" => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        HttpResponse::build(status).json(self)
    }
}

impl Output for Readiness {
    fn describe(operation: &mut Operation) {
        let schema = operation.gives.subschema_for::<Self>().to_value();
        for status in [200, 503] {
            operation.answers(status, "application/json", schema.clone());
        }
    }
}

/// `GET /healthz`.
pub async fn healthz() -> Plain<Alive> {
    Plain(Alive { status: "alive" })
}

/// `GET /readyz`.
pub async fn readyz(app: web::Data<App>) -> Readiness {
    let (database, store) = tokio::join!(app.db.ping(), app.keystore.ping());
    let feed = app.ended.is_fresh();
    let draining = app.is_draining();
    let ready = database.is_ok() && store.is_ok() && feed && !draining;
    let word = |good: bool| if good { "ok" } else { "unavailable" };
    Readiness {
        status: match (ready, draining) {
            (true, _) => "ready",
            (_, true) => "shutting down",
            _ => "not ready",
        },
        database: word(database.is_ok()),
        store: word(store.is_ok()),
        revocation_feed: word(feed),
    }
}

/// Looks whether database and Redis answer, and what time it is there, for as long as the process lives.
pub async fn watch(app: web::Data<App>) {
    let mut database = Part::new(
        "database",
        Outage::new("the database does not answer", "the database answers again"),
    );
    let mut redis = Part::new(
        "redis",
        Outage::new("Redis does not answer", "Redis answers again"),
    );
    loop {
        let began = app.clock.now();
        let theirs = app.db.clock().await;
        database.note(&app, &theirs, began);
        if let Keystore::Redis(store) = &app.keystore {
            let began = app.clock.now();
            let theirs = match app.keystore.ping().await {
                Ok(()) => store.clock().await.map(Some),
                Err(error) => Err(error),
            };
            redis.note(&app, &theirs, began);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Something that this node stands on.
struct Part {
    name: &'static str,
    outage: Outage,
    skew: Outage,
}

impl Part {
    const fn new(name: &'static str, outage: Outage) -> Self {
        Self {
            name,
            outage,
            skew: Outage::new(
                "this node's time is not that of the others: they refuse each other's tokens",
                "this node's time is that of the others again",
            ),
        }
    }

    /// Takes note of what time it is there, asked since `began`, if it has one and answered.
    fn note<E: Display>(
        &mut self,
        app: &App,
        theirs: &Result<Option<Timestamp>, E>,
        began: Timestamp,
    ) {
        app.metrics.set_reachable(self.name, theirs.is_ok());
        self.outage.note(theirs);
        if let Ok(Some(theirs)) = theirs {
            let apart = apart(*theirs, began, app.clock.now());
            app.metrics.set_clock_apart(self.name, apart);
            let (by, side) = (apart.as_secs(), side(*theirs, began));
            let told = || format!("{by} s {side} the clock of {}", self.name);
            self.skew.note(&match apart > WORST_SKEW {
                true => Err(told()),
                false => Ok(()),
            });
        }
    }
}
