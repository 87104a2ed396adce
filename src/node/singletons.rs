//! The singletons that a node was built with: asked for once it is ready, and again where the cluster gave them up.
//!
//! ```text
//!  ready ─▶ start ─ Ok ─▶ listen ─ given up ─▶ wait ─▶ start
//!             └ failed ─▶ wait, twice as long each time ─┘     terminated, or ignored ─▶ nothing more
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tumen_core::names::directory::News;
use tumen_core::names::{ClaimNumber, Name, Reason, Spec};

use super::Node;
use crate::error::Error;
use crate::names::NameFailure;

/// How long after a failure it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest such wait.
const ASK_AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// One that the cluster is to run.
#[derive(Clone, Debug)]
pub(super) struct Singleton {
    pub(super) name: Name,
    pub(super) spec: Spec,
}

/// Has the cluster run it. Ends once it was terminated, or the node ended.
pub(super) async fn keep(node: Node, singleton: Singleton) {
    if node.ready().await.is_ok() {
        tokio::select! {
            () = ask_for(&node, &singleton) => {}
            _ = node.ended() => {}
        }
    }
}

async fn ask_for(node: &Node, Singleton { name, spec }: &Singleton) {
    let mut wait = ASK_AGAIN_AFTER;
    loop {
        let mut news = node.names().news();
        match node.start_named(name, spec.clone(), bytes::Bytes::new()).await {
            Ok(found) => {
                let begun = Instant::now();
                let Some(reason) = lost(node, &mut news, name, found.fence).await else { return };
                tracing::warn!(%name, %reason, "a singleton of this node is not run any more: it is asked for again in {wait:?}");
                if begun.elapsed() > ASK_AGAIN_AFTER_MAX {
                    wait = ASK_AGAIN_AFTER;
                }
            }
            Err(Error::Name(NameFailure::Ignored)) => {
                return tracing::info!(%name, "a singleton of this node says that it is not to run");
            }
            Err(why) => {
                tracing::warn!(%name, %why, "a singleton of this node could not be started: it is asked for again in {wait:?}");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(ASK_AGAIN_AFTER_MAX);
    }
}

/// Waits until the cluster has given it up, and says why. `None`: it was terminated on purpose, or says that
/// it is not to run, or it is not known.
async fn lost(
    node: &Node,
    news: &mut broadcast::Receiver<Arc<News>>,
    singleton: &Name,
    since: ClaimNumber,
) -> Option<Reason> {
    loop {
        match news.recv().await {
            Ok(piece) => match &*piece {
                // The next cluster numbers anew, and may have something else there.
                News::Unregistered { name, reason: reason @ Reason::Dropped, .. } if name == singleton => {
                    return Some(reason.clone());
                }
                News::Unregistered { name, number, reason, goes_on: false, .. }
                    if name == singleton && *number >= since =>
                {
                    let on_purpose = matches!(reason, Reason::Normal | Reason::Ignored);
                    return (!on_purpose).then(|| reason.clone());
                }
                News::Registered { .. } | News::Updated { .. } | News::Unregistered { .. } => {}
            },
            // What it was given up for, if it was, is not known: to have been terminated is the last word.
            Err(RecvError::Lagged(_)) if node.child(singleton).is_none() => return None,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}
