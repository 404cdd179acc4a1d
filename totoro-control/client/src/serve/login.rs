//! Who comes from beyond loopback shows the run's token once.

use std::sync::Arc;

use axum::extract::{Form, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::pages::{Fields, Spoken, back, frame, render};
use super::views::Login;
use super::{Serve, guard};

/// The form.
pub(super) async fn form(Spoken(lang): Spoken) -> Response {
    let page = Login {
        page: frame(lang, "/login"),
        wrong: false,
    };
    render(StatusCode::OK, &page)
}

/// The run's token for its cookie.
pub(super) async fn logging_in(
    State(serve): State<Arc<Serve>>,
    Spoken(lang): Spoken,
    Form(form): Form<Fields>,
) -> Response {
    let token = form
        .get("token")
        .map(|text| text.trim())
        .unwrap_or_default();
    if serve.guard.is_token(token) {
        let mut response = back(lang);
        let cookie = format!(
            "{}={token}; Path=/; HttpOnly; SameSite=Strict",
            guard::COOKIE
        );
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    } else {
        // 192 random bits: guessing needs no other hindrance.
        let page = Login {
            page: frame(lang, "/login"),
            wrong: true,
        };
        render(StatusCode::FORBIDDEN, &page)
    }
}
