//! Events as a file, read from the database and sent on piece by piece: however long the log is,
//! neither is held for long and little is kept in memory.

use actix_web::HttpResponse;
use actix_web::http::header::{ContentDisposition, DispositionParam, DispositionType};
use actix_web::web::Bytes;
use futures_util::stream;
use serde::Deserialize;

use super::EventOut;
use crate::audit::{self, Event, Filter};
use crate::clock::Timestamp;
use crate::db::Db;

/// Events read at a time.
const PIECE: i64 = 500;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Json,
}

/// Where the file has got to.
enum Place {
    Start,
    /// After this event.
    After(String),
    End,
}

/// The events that pass `filter`, as they may be `told`, in a file of the day `now` falls on.
pub fn file(
    db: Db,
    filter: Filter,
    told: impl Fn(Event) -> Event + Clone + 'static,
    format: Format,
    now: Timestamp,
) -> HttpResponse {
    let (extension, content_type) = match format {
        Format::Csv => ("csv", "text/csv; charset=utf-8"),
        Format::Json => ("json", "application/json"),
    };
    let name = format!("gapura-activity-{}.{extension}", now.date_time().date());
    let disposition = ContentDisposition {
        disposition: DispositionType::Attachment,
        parameters: vec![DispositionParam::Filename(name)],
    };
    // Events that happen meanwhile are left out: the file is of one moment.
    let filter = Filter {
        to: Some(now + std::time::Duration::from_millis(1)),
        ..filter
    };
    let pieces = stream::try_unfold(Place::Start, move |place| {
        let (db, filter, told) = (db.clone(), filter.clone(), told.clone());
        async move {
            let is_first = matches!(place, Place::Start);
            let after = match place {
                Place::Start => None,
                Place::After(id) => Some(id),
                Place::End => return Ok(None),
            };
            let read = db.read(move |conn| audit::page(conn, &filter, after.as_deref(), PIECE));
            let events = read.await?;
            let next = match events.last() {
                Some(last) if events.len() as i64 == PIECE => Place::After(last.id.clone()),
                _ => Place::End,
            };
            let is_last = matches!(next, Place::End);
            let events = events.into_iter().map(|event| EventOut::from(told(event)));
            let events: Vec<EventOut> = events.collect();
            let bytes = match format {
                Format::Csv => csv(&events, is_first),
                Format::Json => json(&events, is_first, is_last),
            };
            let bytes = bytes?;
            Ok::<_, Box<dyn std::error::Error>>(Some((Bytes::from(bytes), next)))
        }
    });
    HttpResponse::Ok()
        .content_type(content_type)
        .insert_header(disposition)
        .streaming(pieces)
}

fn json(events: &[EventOut], is_first: bool, is_last: bool) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let start: &[u8] = if is_first && at == 0 { b"[\n" } else { b",\n" };
        bytes.extend_from_slice(start);
        serde_json::to_writer(&mut bytes, event).map_err(|error| error.to_string())?;
    }
    if is_first && events.is_empty() {
        bytes.push(b'[');
    }
    if is_last {
        bytes.extend_from_slice(b"\n]\n");
    }
    Ok(bytes)
}

fn csv(events: &[EventOut], is_first: bool) -> Result<Vec<u8>, String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let told = |error: csv::Error| error.to_string();
    if is_first {
        let names = [
            "id", "at", "kind", "user_id", "actor_id", "login_id", "device", "ip", "cause",
            "detail",
        ];
        writer.write_record(names).map_err(told)?;
    }
    for event in events {
        let at = event.at.rfc3339();
        let text = |field: &Option<String>| inert(field.as_deref().unwrap_or_default());
        let fields = [
            inert(&event.id),
            inert(&at),
            inert(&event.kind),
            text(&event.user_id),
            text(&event.actor_id),
            text(&event.login_id),
            text(&event.device),
            text(&event.ip),
            text(&event.cause),
            text(&event.detail),
        ];
        writer.write_record(fields).map_err(told)?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

/// A spreadsheet would run what begins like a formula (OWASP, "CSV Injection").
fn inert(field: &str) -> String {
    match field.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        true => format!("'{field}"),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{inert, json};

    #[test]
    fn what_begins_like_a_formula_is_made_inert() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"] {
            assert_eq!(inert(formula), format!("'{formula}"));
        }
        for harmless in ["", "Chrome on Linux", "2026-11-21T05:06:07Z", "1=1"] {
            assert_eq!(inert(harmless), harmless);
        }
    }

    #[test]
    fn no_events_are_json_too() {
        let bytes = json(&[], true, true).unwrap();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(),
            serde_json::json!([])
        );
    }
}
