//! `GET /state`, `GET /state/kv/{partition}` and `POST /state`: a cluster's state in pieces that fit into a request.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};

use super::kv::{self, percent_decoded};
use super::refusal::Refusal;
use super::routes::App;
use super::shapes::Import;
use crate::kv::Kv;
use crate::state::{ClusterState, Imported, KvState, named};
use crate::worker::Worker;

/// The longest piece that is taken in: a value of the greatest length fits into one, as hexadecimal digits.
const PIECE_LEN_MAX: usize = 12 << 20;

pub(super) async fn state(State(app): State<App>) -> Json<ClusterState> {
    Json(app.node.state())
}

/// The next keys of a partition behind `?after=KEY`; `exact` is true in the last piece.
pub(super) async fn page(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<KvState>, Refusal> {
    let Path(name) = name.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let after = pairs.find_map(|pair| pair.strip_prefix("after="));
    let after = after.map(|encoded| {
        percent_decoded(encoded.as_bytes(), true)
            .ok_or_else(|| Refusal::bad_request("after= holds a % without two hexadecimal digits after it"))
    });
    let partition = named(&app.node, &name)?;
    let page = app.node.scan(partition.id, after.transpose()?).await?;
    Ok(Json(KvState { partition: partition.name, ..page }))
}

pub(super) async fn import(State(app): State<App>, body: Body) -> Result<Json<Imported>, Refusal> {
    if !app.node.hosts(Kv::KIND) {
        return Err(Refusal::not_found("this node does not host kv: its builder did not say .kv()"));
    }
    let (body, _room) = kv::read(&app, body, PIECE_LEN_MAX, "a piece of a state").await?;
    let Import { format, entries, overwrite, dry_run } = serde_json::from_slice(&body)
        .map_err(|why| Refusal::bad_request(format!("the body is no piece of a state: {why}")))?;
    ClusterState { format, ..ClusterState::default() }.check()?;
    if !overwrite {
        let refused = |why: crate::Error| match why.code() {
            "rejected" => Refusal::new(StatusCode::CONFLICT, "exists", why.to_string()),
            _ => why.into(),
        };
        app.node.refuse_existing(&entries).await.map_err(refused)?;
    }
    if dry_run {
        return Ok(Json(Imported::default()));
    }
    match app.node.import_entries(&entries, overwrite).await {
        Ok(done) => Ok(Json(done)),
        Err((done, why)) if done.changed => Err(Refusal::from(why).after_part()),
        Err((_, why)) => Err(why.into()),
    }
}
