//! From a configuration to a running node: ports first, then the runtime, HTTP last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tumen_actors::names::child::ChildKinds;
use tumen_actors::node::Runtime;
use tumen_actors::partitions::{Hosted, Kinds};
use tumen_core::PlacementName;
use tumen_core::assignment::Strategy;
use tumen_core::names::placements::Placements;

use super::builder::{self, Children, Surroundings};
use super::discover::{self, Discover};
use super::events;
use super::settings::{Addresses, Runs, settings};
use super::singletons;
use super::{AssignmentsUpdated, Inner, Node, Subscription};
use crate::config::{Address, Config};
use crate::error::{Error, Result};
use crate::http;
use crate::names::ChildError;

/// Starts a node. What was bound before an error is closed again.
pub(super) async fn start(
    config: Config,
    kinds: Vec<Hosted>,
    strategies: Vec<Arc<dyn Strategy>>,
    children: Children,
    surroundings: Surroundings,
) -> Result<Node> {
    let kinds = Kinds::new(kinds)?;
    if config.consistency.is_available() {
        let kinds: Vec<String> = kinds.unmergeable().map(ToString::to_string).collect();
        if !kinds.is_empty() {
            return Err(Error::Unmergeable { kinds });
        }
    }
    let hosted = children.kinds.into_iter().collect::<Result<Vec<_>, _>>()?;
    let singletons = children.singletons.into_iter().collect::<Result<Vec<_>>>()?;
    let read_args: BTreeMap<_, _> = hosted.iter().map(|one| (one.kind.clone(), one.read_args)).collect();
    let child_kinds = ChildKinds::new(hosted.into_iter().map(|one| (one.kind, one.start)).collect())
        .map_err(ChildError::from)?;
    let placements = placements(children.placements)?;
    let listener = bind("the cluster port", &config.listen.0).await?;
    let http = match config.http.address() {
        Some(address) => Some(bind("the HTTP port", address).await?),
        None => None,
    };
    let bound = |listener: &TcpListener| listener.local_addr().map_err(system("a bound port has no address"));
    let addresses = Addresses {
        cluster: config.advertised(bound(&listener)?).to_string(),
        http: match &http {
            Some(http) => Some(config.advertised_http(bound(http)?).to_string()),
            None => None,
        },
    };
    let listener = listener.into_std().map_err(system("the cluster port cannot be kept open"))?;
    let kept_open = listener.try_clone().map_err(system("the cluster port cannot be kept open"))?;
    let known = Discover::new(&config, addresses.http.as_deref()).map(Discover::into_function);
    let mut surroundings =
        Surroundings { discover: discover::both(known, surroundings.discover), ..surroundings };
    let listeners = std::mem::take(&mut surroundings.listeners);
    let replicated = kinds.iter().any(Hosted::is_replicated);
    let resolver = children.resolver.unwrap_or_else(|| config.conflicts.into());
    let runs = Runs { replicated, children: child_kinds, placements, resolver };
    let settings = settings(&config, addresses, surroundings, listener, strategies, runs);
    let runtime = Runtime::start(settings, kinds).await?;
    let stopping = CancellationToken::new();
    let inner = Inner {
        config,
        runtime,
        read_args,
        stopping: stopping.clone(),
        listener: Mutex::new(Some(kept_open)),
        http: OnceLock::new(),
        news: events::News::new(),
    };
    let node = Node { inner: Arc::new(inner) };
    node.news().follow(&node, stopping.clone());
    events::start(&node, listeners, &stopping);
    for singleton in singletons {
        let keeping = singletons::keep(node.clone(), singleton);
        tokio::spawn(stopping.clone().run_until_cancelled_owned(keeping));
    }
    tokio::spawn(stopping.run_until_cancelled_owned(warn_of_numbers(node.clone(), node.subscribe())));
    if let Some(listener) = http {
        let server = http::serve(&node, listener).map_err(system("the HTTP port cannot be served"))?;
        // It was not set before.
        drop(node.inner.http.set(server));
    }
    Ok(node)
}

/// The user's own placements, each under a name that can be taken.
fn placements(own: builder::Placements) -> Result<Placements, ChildError> {
    let named = own.0.into_iter().map(|(name, placement)| {
        let named = PlacementName::new(&name);
        named.map(|name| (name, placement)).map_err(|why| ChildError::PlacementName { name, why })
    });
    Ok(Placements::new(named.collect::<Result<_, _>>()?)?)
}

/// Says so when there are too few nodes for the copies, or too many for the partitions.
async fn warn_of_numbers(node: Node, mut plans: Subscription<AssignmentsUpdated>) {
    let mut warned = 0;
    while let Some(AssignmentsUpdated { snapshot, .. }) = plans.next().await {
        let nodes = u32::try_from(snapshot.members.len()).unwrap_or(u32::MAX);
        if nodes != warned {
            warned = nodes;
            // A node that joined may have been told other numbers than those that hold, or none.
            let mut agreed = node.config().clone();
            agreed.partitions = snapshot.users().spec.partitions;
            agreed.replication = snapshot.users().spec.replication;
            agreed.warnings_for(nodes).iter().for_each(|warning| tracing::warn!("{warning}"));
        }
    }
}

async fn bind(what: &'static str, address: &Address) -> Result<TcpListener> {
    let host = if address.host.is_empty() { "0.0.0.0" } else { &address.host };
    TcpListener::bind((host, address.port)).await.map_err(|why| Error::Bind {
        what,
        address: address.to_string(),
        why,
    })
}

const fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |why| Error::System { what, why }
}
