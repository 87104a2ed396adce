//! Finds cluster ports where only HTTP interfaces are known: asks each of them for its cluster.

use std::sync::Arc;
use std::time::Duration;

use tumen_actors::node::Discover;
use ureq::Agent;

use crate::config::{Address, Config};
use crate::http::shapes::Cluster;

/// How long one interface may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The most that an answer may hold: a thousand nodes, with room.
const ANSWER_LEN_MAX: u64 = 4 << 20;

/// Asks the known HTTP interfaces, except the node's own, which is at `own`. `None`: no other is known.
pub(super) fn discover(config: &Config, own: Option<&str>) -> Option<Discover> {
    let own: Option<Address> = own.and_then(|own| crate::config::Value::parse(own).ok());
    let known = config.known_nodes.iter().map(|seed| &seed.0);
    let others: Arc<[Address]> = known.filter(|seed| !own.as_ref().is_some_and(|own| same(own, seed))).cloned().collect();
    if others.is_empty() {
        return None;
    }
    let token = config.http_token.as_ref().map(|token| format!("Bearer {}", token.expose()));
    Some(Arc::new(move || {
        let (others, token) = (Arc::clone(&others), token.clone());
        Box::pin(async move {
            let asking = tokio::task::spawn_blocking(move || ask_all(&others, token.as_deref()));
            asking.await.unwrap_or_default()
        })
    }))
}

/// Whether both lead to one place. The machine's own address has several spellings.
fn same(one: &Address, other: &Address) -> bool {
    one.port == other.port && (one.host == other.host || (one.is_loopback() && other.is_loopback()))
}

/// The cluster ports that the first of them tells who answers.
fn ask_all(interfaces: &[Address], token: Option<&str>) -> Vec<String> {
    let config = Agent::config_builder().proxy(None).timeout_global(Some(ANSWER_WITHIN)).build();
    let agent = Agent::new_with_config(config);
    let asked = interfaces.iter().filter_map(|interface| match ask(&agent, interface, token) {
        Ok(addresses) => Some(addresses),
        Err(why) => {
            tracing::debug!(%interface, %why, "a known node's HTTP interface does not answer");
            None
        }
    });
    asked.take(1).flatten().collect()
}

fn ask(agent: &Agent, interface: &Address, token: Option<&str>) -> Result<Vec<String>, ureq::Error> {
    let mut request = agent.get(format!("http://{interface}/cluster"));
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let cluster: Cluster = request.call()?.body_mut().with_config().limit(ANSWER_LEN_MAX).read_json()?;
    Ok(cluster.nodes.into_iter().map(|node| node.address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_own_interface_is_recognised() {
        let at = |host: &str, port| Address::new(host, port);
        assert!(same(&at("127.0.0.1", 8080), &at("localhost", 8080)));
        assert!(same(&at("10.0.0.1", 8080), &at("10.0.0.1", 8080)));
        assert!(!same(&at("127.0.0.1", 8080), &at("127.0.0.1", 8081)));
        assert!(!same(&at("127.0.0.1", 8080), &at("10.0.0.1", 8080)));
    }
}
