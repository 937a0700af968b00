//! Behind an https public URL nothing is served to a browser that came by plain http: a page is sent
//! to https, everything else is refused, since what it carried has already crossed the network in
//! the clear.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::LOCATION;
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, web};

use super::origin;
use crate::app::App;
use crate::error::{AppError, Code};

/// The layer itself. Only the word of a trusted proxy counts.
///
/// # Errors
/// Passes on what lies below.
pub async fn insist<B: MessageBody + 'static>(
    req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let app = req.app_data::<web::Data<App>>().cloned();
    let public = app.as_ref().and_then(|app| {
        app.config
            .public_url
            .as_ref()
            .filter(|_| app.config.is_https())
    });
    let (Some(app), Some(public)) = (&app, public) else {
        return Ok(next.call(req).await?.map_into_left_body());
    };
    let carries_nothing = ["/healthz", "/readyz"].contains(&req.path());
    if carries_nothing || !origin::came_by_http(req.request(), &app.config) {
        return Ok(next.call(req).await?.map_into_left_body());
    }
    app.misleading.came_by_http(req.request());
    let is_page =
        !req.path().starts_with("/api/") && matches!(*req.method(), Method::GET | Method::HEAD);
    if !is_page {
        return Ok(req
            .error_response(AppError::from(Code::Forbidden))
            .map_into_right_body());
    }
    let path = req.uri().path_and_query().map_or("/", |path| path.as_str());
    let location = format!("{}{path}", public.origin().ascii_serialization());
    let answer = HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, location))
        .finish();
    Ok(req.into_response(answer).map_into_right_body())
}
