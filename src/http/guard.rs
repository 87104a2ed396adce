//! Who may ask: everybody on this machine, or whoever knows the token.
//!
//! Without a token the node listens on this machine only. That is not enough against web pages, which a browser on the
//! machine lets ask for `http://127.0.0.1`: so requests that a page of another origin makes are refused, and those for a
//! host name that somebody had lead here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use axum::http::uri::Authority;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use crate::config::Secret;

/// What load balancers and orchestrators ask, which are told no secrets.
const OPEN: [&str; 2] = ["/health", "/ready"];

#[derive(Clone, Debug)]
pub(super) struct Guard {
    token: Option<Arc<Secret>>,
}

impl Guard {
    pub(super) fn new(token: Option<Secret>) -> Self {
        Self { token: token.map(Arc::new) }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.token {
            _ if OPEN.contains(&path) => Ok(()),
            Some(token) if shows(headers, token) => Ok(()),
            Some(_) => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "this node wants its token: send the header Authorization: Bearer TOKEN",
            )),
            None if is_foreign(headers) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "foreign",
                "a node without a token answers requests for localhost or an IP address only, and none from other web pages",
            )),
            None => Ok(()),
        }
    }
}

/// The layer around all routes.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Compared in a time that does not tell how much of it was right.
fn shows(headers: &HeaderMap, token: &Secret) -> bool {
    let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let shown = shown.and_then(|value| {
        let (scheme, shown) = value.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(shown)
    });
    shown.is_some_and(|shown| bool::from(shown.trim_ascii().ct_eq(token.expose().trim().as_bytes())))
}

fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(HOST);
    let named = host.is_some_and(|host| !is_address(host));
    let other_page = text(ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != host);
    named || other_page
}

/// Whether a `Host` is no name that a DNS server could have lead here.
fn is_address(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::config::Value;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_token_is_wanted_where_there_is_one() {
        let guard = Guard::new(Some(Secret::parse("swordfish").unwrap()));
        let with = |value: &str| guard.check("/cluster", &headers(&[(AUTHORIZATION, value)])).is_ok();
        assert!(with("Bearer swordfish") && with("bearer swordfish") && with("Bearer swordfish "));
        for wrong in ["", "swordfish", "Basic swordfish", "Bearer", "Bearer ", "Bearer swordfis", "Bearer swordfishh"] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(guard.check("/cluster", &HeaderMap::new()).is_err());
        assert!(guard.check("/health", &HeaderMap::new()).is_ok() && guard.check("/ready", &HeaderMap::new()).is_ok());
        assert!(guard.check("/ready/", &HeaderMap::new()).is_err());
    }

    #[test]
    fn web_pages_are_kept_out_where_there_is_none() {
        let guard = Guard::new(None);
        let passes = |pairs: &[(HeaderName, &str)]| guard.check("/cluster", &headers(pairs)).is_ok();
        for host in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost", "10.0.0.1"] {
            assert!(passes(&[(HOST, host)]), "{host}");
            assert!(passes(&[(HOST, host), (ORIGIN, &format!("http://{host}"))]), "{host}");
            assert!(!passes(&[(HOST, host), (ORIGIN, "http://evil.example")]), "{host}");
            assert!(!passes(&[(HOST, host), (ORIGIN, "null")]), "{host}");
        }
        for host in ["evil.example:8080", "localhost.evil.example", "", "a b"] {
            assert!(!passes(&[(HOST, host)]), "{host}");
        }
        assert!(passes(&[]), "an HTTP/1.0 client names no host");
    }
}
