//! The node's HTTP interface: what people and other programs ask a node.
//!
//! ```text
//!  Server ─▶ guard ─▶ routes ─▶ Node ─▶ shapes ─▶ JSON
//!    │       who may    │                 kv ─▶ the bytes as they were put
//!    bounds             └─ events ◀─ the node's own, numbered
//! ```
//!
//! Every answer that is no success is JSON and says whether anything changed; see [`shapes::ErrorBody`].

mod answers;
mod children;
mod cluster_config;
mod events;
mod exchange;
mod guard;
mod handovers;
mod health;
mod kv;
mod meta;
mod metrics;
mod name_news;
mod refusal;
mod registry;
mod routes;
mod server;
pub mod shapes;
mod socket;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use kv::EPOCH;
pub(crate) use name_news::told as name_event;
pub(crate) use server::Server;

use crate::node::Node;
use server::Limits;

/// Serves a node's HTTP interface at a port that is bound already.
///
/// # Errors
/// If the listener does not know where it listens.
pub(crate) fn serve(node: &Node, listener: TcpListener) -> io::Result<Server> {
    let stopping = CancellationToken::new();
    let routes = routes::routes(node.clone(), stopping.clone());
    Server::start(listener, routes, Limits::default(), stopping)
}
