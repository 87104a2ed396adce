//! Finds cluster ports where only HTTP interfaces are known: asks each of them for its cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;

use crate::config::{Address, Config, Value};
use crate::http::shapes::Cluster;

/// How long one interface may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The most that an answer may hold: a thousand nodes, with room.
const ANSWER_LEN_MAX: u64 = 4 << 20;

/// The known HTTP interfaces of other nodes, and how they are asked.
#[derive(Clone, Debug)]
pub(super) struct Discover {
    others: Arc<[Address]>,
    token: Option<String>,
}

impl Discover {
    /// What is known besides the node's own interface, which is at `own`. `None`: nothing is.
    pub(super) fn new(config: &Config, own: Option<&str>) -> Option<Self> {
        let own: Option<Address> = own.and_then(|own| Value::parse(own).ok());
        let is_own = |seed: &Address| own.as_ref().is_some_and(|own| same(own, seed));
        let known = config.known_nodes.iter().map(|seed| &seed.0);
        let others: Arc<[Address]> = known.filter(|seed| !is_own(seed)).cloned().collect();
        let token = config.http_token.as_ref().map(|token| format!("Bearer {}", token.expose()));
        (!others.is_empty()).then_some(Self { others, token })
    }

    /// Asks all of them, whenever the runtime wants to know whom there is to meet.
    pub(super) fn into_function(self) -> tumen_actors::node::Discover {
        Arc::new(move || {
            let asked = self.clone();
            let asking = tokio::task::spawn_blocking(move || ask_all(&asked.others, asked.token.as_deref()));
            // Whoever does not answer is asked again with the next look.
            Box::pin(async move { asking.await.unwrap_or_default() })
        })
    }
}

/// What both find, or the one that there is.
pub(super) fn both(
    one: Option<tumen_actors::node::Discover>,
    other: Option<tumen_actors::node::Discover>,
) -> Option<tumen_actors::node::Discover> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Arc::new(move || {
            let asked = (one(), other());
            Box::pin(async move {
                let (mut found, more) = tokio::join!(asked.0, asked.1);
                found.extend(more);
                found
            })
        })),
        (one, other) => one.or(other),
    }
}

/// Whether both lead to one place. The machine's own address has several spellings.
fn same(one: &Address, other: &Address) -> bool {
    one.port == other.port && (one.host == other.host || (one.is_loopback() && other.is_loopback()))
}

/// The cluster ports that they tell. All are asked: the first that answers may be waiting for the others itself.
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
    let told: BTreeSet<String> = asked.flatten().collect();
    told.into_iter().collect()
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
