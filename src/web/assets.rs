//! Static files, compiled into the binary. Each is linked under a name that holds a hash of its
//! content, and may then be kept by browsers for ever; the plain name works too and is asked for
//! anew each time (scripts of others import it).

use std::collections::HashMap;
use std::sync::LazyLock;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use rust_embed::RustEmbed;

use crate::error::{AppError, Code};

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// Plain path to fingerprinted path, and back.
static NAMES: LazyLock<(HashMap<String, String>, HashMap<String, String>)> = LazyLock::new(|| {
    let mut names = (HashMap::new(), HashMap::new());
    for path in Files::iter() {
        let Some(file) = Files::get(&path) else {
            continue;
        };
        let hash: String = file.metadata.sha256_hash()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let fingerprinted = match path.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}.{hash}.{extension}"),
            None => format!("{path}.{hash}"),
        };
        names.0.insert(path.to_string(), fingerprinted.clone());
        names.1.insert(fingerprinted, path.to_string());
    }
    names
});

/// The address of a static file.
pub fn url(path: &str) -> String {
    let name = NAMES.0.get(path).map_or(path, String::as_str);
    format!("/static/{name}")
}

/// `GET /static/{path}`.
pub async fn serve(req: HttpRequest, path: web::Path<String>) -> Result<HttpResponse, AppError> {
    let fingerprinted = NAMES.1.get(path.as_str());
    let plain = fingerprinted.map_or(path.as_str(), String::as_str);
    let file = Files::get(plain).ok_or(Code::NotFound)?;
    let kind = match plain.rsplit_once('.').map(|(_, extension)| extension) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let tag: String = file.metadata.sha256_hash()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let tag = format!("\"{tag}\"");
    let caching = match fingerprinted {
        Some(_) => "public, max-age=31536000, immutable",
        None => "no-cache",
    };
    if req
        .headers()
        .get(IF_NONE_MATCH)
        .is_some_and(|known| known == tag.as_str())
    {
        return Ok(HttpResponse::NotModified()
            .insert_header((ETAG, tag))
            .insert_header((CACHE_CONTROL, caching))
            .finish());
    }
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((CACHE_CONTROL, caching))
        .insert_header((ETAG, tag))
        .body(file.data))
}
