//! The sessions that are up, told to everybody who asks: the transport itself tells one only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tumen_core::cluster::greeting::Greeting;
use tumen_core::ids::NodeName;

use crate::transport::{Event, Subscriber, Transport};

/// Hands session events on. It belongs to the node, so that an actor that starts again is told again. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sessions {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    up: BTreeMap<NodeName, (Box<Greeting>, u64)>,
    listeners: BTreeMap<&'static str, Subscriber>,
}

impl Sessions {
    /// Hears of the transport's sessions from now on, those that are up first.
    pub fn follow(&self, transport: &Transport) {
        let sessions = self.clone();
        transport.subscribe(Arc::new(move |event| sessions.handle(&event)));
    }

    /// Something happened to a session. All listeners hear of it, in the order in which they are named.
    pub fn handle(&self, event: &Event) {
        let mut inner = self.lock();
        match event {
            Event::SessionUp { peer, session } => {
                inner.up.insert(peer.info.id.node.clone(), (peer.clone(), *session));
            }
            Event::SessionDown { peer, session, .. } => {
                if inner.up.get(&peer.node).is_some_and(|(_, up)| up == session) {
                    inner.up.remove(&peer.node);
                }
            }
            Event::Refused { .. } | Event::DialFailed { .. } => {}
        }
        // Under the lock, or two events could be told in the wrong order.
        inner.listeners.values().for_each(|listener| listener(event.clone()));
    }

    /// Tells `listener` of every session that is up, and then of every event. It takes the place of whoever listened under the
    /// same name. It must be quick, must not block, and must not ask these sessions anything: hand it on to an actor.
    pub fn subscribe(&self, name: &'static str, listener: Subscriber) {
        let mut inner = self.lock();
        for (peer, session) in inner.up.values() {
            listener(Event::SessionUp { peer: peer.clone(), session: *session });
        }
        inner.listeners.insert(name, listener);
    }

    /// Tells whoever listened under this name nothing more.
    pub fn unsubscribe(&self, name: &'static str) {
        self.lock().listeners.remove(name);
    }

    /// The nodes with which there is a session, sorted, as they described themselves.
    pub fn up(&self) -> Vec<Greeting> {
        self.lock().up.values().map(|(peer, _)| peer.as_ref().clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A listener that panics leaves the table as it should be.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().up.keys()).finish()
    }
}
