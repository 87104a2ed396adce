//! `GET /registry`: who answers under which name. And how names stand in paths and queries: any bytes, with `%XX` for those
//! that have no place there.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;
use tumen_core::names::Name;

use super::answers::by_contents;
use super::kv;
use super::refusal::Refusal;
use super::routes::App;
use super::shapes;
use crate::error::Error;
use crate::names::text_of;
use crate::node::Registered;

/// How many names are listed if nothing is said.
const LIMIT: usize = 1000;
/// How many names are listed at most.
const LIMIT_MAX: usize = 10_000;

pub(super) async fn list(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let (prefix, limit) = wanted(&uri)?;
    let mut names: Vec<_> = app.node.registered(&prefix, limit + 1).into_iter().map(shown).collect();
    let more = names.len() > limit;
    names.truncate(limit);
    Ok(by_contents(&headers, &shapes::Registry { count: names.len(), names, more }))
}

pub(super) async fn show(State(app): State<App>, uri: Uri) -> Result<Json<shapes::Registered>, Refusal> {
    let name = name(&uri)?;
    if let Some(found) = app.node.lookup(name.as_bytes()) {
        return Ok(Json(shown(found)));
    }
    Err(Refusal::not_found(match app.node.child(&name) {
        Some(_) => {
            format!("nobody answers under {name} at present: it is a child, which is about to run elsewhere")
        }
        None => format!("nothing is registered under {name}"),
    }))
}

fn shown(found: Registered) -> shapes::Registered {
    let Registered { name, fence, node, actor, kind, value } = found;
    shapes::Registered {
        name: text_of(name.as_bytes()),
        kind: kind.map(|kind| kind.to_string()),
        node: node.node.to_string(),
        boot: format!("{:x}", node.boot.0),
        actor,
        fence: fence.0,
        value: text_of(&value),
    }
}

/// The name in a path: what stands between the second slash and the next, with `%XX` as the byte that it means.
pub(super) fn name(uri: &Uri) -> Result<Name, Refusal> {
    let encoded = uri.path().split('/').nth(2).unwrap_or_default();
    let bytes = decoded(encoded, false)?;
    Name::new(&bytes).map_err(|why| Error::BadName(why).into())
}

/// How the names begin that are to be listed, and how many: `?prefix=P&limit=N`.
pub(super) fn wanted(uri: &Uri) -> Result<(Bytes, usize), Refusal> {
    let (mut prefix, mut limit) = (Bytes::new(), LIMIT);
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("prefix", encoded) => prefix = decoded(encoded, true)?,
            ("limit", text) => {
                let told = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                limit = told.ok_or_else(|| {
                    Refusal::bad_request(format!("limit is a whole number from 1 to {LIMIT_MAX}"))
                })?;
            }
            (other, value) => {
                let message = format!("expected prefix=P or limit=N, not {other}={value}");
                return Err(Refusal::bad_request(message));
            }
        }
    }
    Ok((prefix, limit))
}

pub(super) fn decoded(encoded: &str, query: bool) -> Result<Bytes, Refusal> {
    kv::percent_decoded(encoded.as_bytes(), query)
        .ok_or_else(|| Refusal::bad_request("the name holds a % without two hexadecimal digits after it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_any_bytes_and_are_shown_as_text() {
        let of = |path: &'static str| name(&Uri::from_static(path)).map(|name| text_of(name.as_bytes()));
        assert_eq!(of("/children/a%2Fb%20c/move").unwrap(), "a/b c");
        assert_eq!(of("/registry/%E2%82%AC+").unwrap(), "€+");
        assert_eq!(of("/registry/%ff%00").unwrap(), "\\xff\\x00");
        assert!(of("/registry/%f").is_err() && of("/registry/").is_err());
        assert!(name(&format!("/registry/{}", "a".repeat(1025)).parse().unwrap()).is_err());
    }

    #[test]
    fn a_list_is_asked_for_by_prefix_and_bounded() {
        let of = |query: &str| wanted(&format!("/registry{query}").parse().unwrap());
        assert_eq!(of("").unwrap(), (Bytes::new(), LIMIT));
        assert_eq!(of("?prefix=a%2F&limit=10000").unwrap(), (Bytes::from_static(b"a/"), 10_000));
        for bad in ["?limit=0", "?limit=10001", "?limit=x", "?prefix=%", "?what=1"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
