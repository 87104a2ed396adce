//! `GET /topics`, `POST /topics/{name}`, `GET /groups`, `GET /groups/{name}`: the users' own topics and groups.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::de::IgnoredAny;
use tumen_core::cluster::topics::MESSAGE_LEN_MAX;

use super::answers::by_contents;
use super::kv;
use super::refusal::Refusal;
use super::registry::{decoded, name};
use super::routes::App;
use super::shapes;
use crate::names::text_of;
use crate::node::Say;

pub(super) async fn topics(State(app): State<App>, headers: HeaderMap) -> Response {
    let topics = app.node.topics().into_iter().map(|seen| shapes::Topic {
        name: seen.topic.as_str().to_owned(),
        local: seen.local,
        remote: seen.remote.iter().map(|(_, count)| u64::from(*count)).sum(),
        nodes: seen.remote.iter().map(|(node, count)| (node.to_string(), *count)).collect(),
        retained_by: seen.retained_by.iter().map(ToString::to_string).collect(),
    });
    let topics: Vec<_> = topics.collect();
    by_contents(&headers, &shapes::Topics { count: topics.len(), topics })
}

pub(super) async fn publish(
    State(app): State<App>,
    uri: Uri,
    body: Body,
) -> Result<Json<shapes::Said>, Refusal> {
    let (topic, how) = (topic(&uri)?, how(&uri)?);
    let (body, _room) = kv::read(&app, body, MESSAGE_LEN_MAX, "a message").await?;
    serde_json::from_slice::<IgnoredAny>(&body).map_err(|why| {
        Refusal::bad_request(format!("a message is any JSON, such as \"text\" or 7: {why}"))
    })?;
    let published = app.node.publish_json(&topic, body, how).await?;
    let said = shapes::Said {
        local: published.local,
        remote: published.remote,
        nodes: published.nodes,
        lost: published.lost,
    };
    Ok(Json(said))
}

/// The topic in a path: what stands between the second slash and the next.
fn topic(uri: &Uri) -> Result<String, Refusal> {
    let bytes = decoded(uri.path().split('/').nth(2).unwrap_or_default(), false)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::bad_request("a topic's name is text in UTF-8"))
}

/// Who is to hear it: `?retain=true`, `?local=true`.
fn how(uri: &Uri) -> Result<Say, Refusal> {
    let (mut retain, mut local) = (false, false);
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair {
            "retain=true" => retain = true,
            "retain=false" => retain = false,
            "local=true" => local = true,
            "local=false" => local = false,
            other => {
                let message = format!("expected retain=true or local=true, not {other}");
                return Err(Refusal::bad_request(message));
            }
        }
    }
    match (retain, local) {
        (true, true) => {
            Err(Refusal::bad_request("what is retained is said to all nodes: leave out local=true"))
        }
        (true, false) => Ok(Say::Retained),
        (false, true) => Ok(Say::Local),
        (false, false) => Ok(Say::All),
    }
}

pub(super) async fn groups(State(app): State<App>, headers: HeaderMap) -> Response {
    let groups = app.node.groups().into_iter().map(|group| shapes::Group {
        name: text_of(group.group.as_bytes()),
        members: group.all,
        local: group.local,
    });
    let groups: Vec<_> = groups.collect();
    by_contents(&headers, &shapes::Groups { count: groups.len(), groups })
}

pub(super) async fn group(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let group = name(&uri)?;
    let members = app.node.runtime().exchange().members(&group);
    let members = members.iter().map(|member| shapes::GroupMember {
        node: member.node.node.to_string(),
        boot: format!("{:x}", member.node.boot.0),
        actor: member.actor,
    });
    let members: Vec<_> = members.collect();
    let name = text_of(group.as_bytes());
    Ok(by_contents(&headers, &shapes::GroupMembers { name, count: members.len(), members }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_read_as_they_are_meant() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(topic(&uri("/topics/prices%2Ftea")).unwrap(), "prices/tea");
        assert!(topic(&uri("/topics/%FF")).is_err() && topic(&uri("/topics/%2")).is_err());
        let how = |text| how(&uri(text)).ok();
        assert_eq!(how("/topics/a"), Some(Say::All));
        assert_eq!(how("/topics/a?retain=true"), Some(Say::Retained));
        assert_eq!(how("/topics/a?local=true&retain=false"), Some(Say::Local));
        assert_eq!(how("/topics/a?local=true&retain=true"), None);
        assert_eq!(how("/topics/a?loud"), None);
    }
}
