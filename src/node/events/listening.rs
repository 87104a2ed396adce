//! Listeners that a builder was given: each hears the events of its node, one after the other, on a thread of its own.
//!
//! ```text
//!  events, numbered and kept ─▶ ┬ thread ─▶ callback      slow: it is told how many it missed, and nobody waits for it
//!  names, children ───────────▶ ┘            panics: said in the log, and the next event is its again
//! ```

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tumen_core::names::directory::News as NameNews;

use super::{Listener, Told};
use crate::http::{name_event, shapes::Event};
use crate::node::Node;

/// What is called with each event.
pub(crate) type Callback = Box<dyn FnMut(&Told) + Send>;

/// What a builder was given.
#[derive(Default)]
pub(crate) struct Callbacks(pub(crate) Vec<Callback>);

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} callbacks", self.0.len())
    }
}

/// Has each of them called, from the first event on, until the node stops.
pub(crate) fn start(node: &Node, callbacks: Callbacks, stopping: &CancellationToken) {
    for (number, callback) in callbacks.0.into_iter().enumerate() {
        // From the first event on: what there was before the door was opened is told too.
        let heard = Heard { listener: node.news().listen_after(0), names: Some(node.names().news()) };
        let (handle, stopping) = (Handle::current(), stopping.clone());
        let thread = std::thread::Builder::new().name(format!("tumen-events-{number}"));
        let spawned = thread.spawn(move || call(&handle, heard, callback, &stopping));
        if let Err(error) = spawned {
            tracing::error!(%error, "a listener has no thread and hears nothing");
        }
    }
}

struct Heard {
    listener: Listener,
    names: Option<broadcast::Receiver<std::sync::Arc<NameNews>>>,
}

impl Heard {
    async fn next(&mut self) -> Option<Told> {
        loop {
            let names = self.names.as_mut();
            let news = async {
                match names {
                    Some(names) => names.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Names may come without end: what there is of the rest goes first.
                biased;
                told = self.listener.next() => {
                    let (number, event) = told?;
                    // What was missed has no number of its own.
                    let number = Some(number).filter(|_| !matches!(event, Event::Missed { .. }));
                    return Some(Told { number, event });
                }
                news = news => match news {
                    Ok(news) => return Some(Told { number: None, event: name_event(&news) }),
                    Err(RecvError::Lagged(count)) => {
                        return Some(Told { number: None, event: Event::NamesMissed { count } });
                    }
                    Err(RecvError::Closed) => self.names = None,
                },
            }
        }
    }
}

/// Calls one callback with each event. It may block its thread: that is its own.
fn call(handle: &Handle, mut heard: Heard, mut callback: Callback, stopping: &CancellationToken) {
    loop {
        let next = stopping.run_until_cancelled(heard.next());
        let Some(Some(told)) = handle.block_on(next) else { return };
        // It is the listener's own state that a panic may leave half made.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(&told))) {
            let why = panic.downcast_ref::<&str>().map(|why| (*why).to_owned());
            let why = why.or_else(|| panic.downcast_ref::<String>().cloned());
            let why = why.unwrap_or_else(|| "no words".to_owned());
            tracing::error!(event = told.event.name(), why, "a listener panicked; it is told the next event");
        }
    }
}
