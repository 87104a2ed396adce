//! What everybody else asks of the real network.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tumen_core::ids::{NodeBoot, NodeName};

use super::{Holder, Network};
use crate::transport::control_lane::System;
use crate::transport::{
    BulkSink, Channel, Counts, Deadline, Done, DownReason, Handler, LaneError, Port, Probe, SendError, Serve,
    ServeBulk, Service, Session, Subscriber, bulk, dialler, listener,
};

/// How long the peers may take to hear the last that this node has to say.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

impl Port for Arc<Network> {
    fn local(&self) -> &NodeBoot {
        &self.local
    }

    fn start(&self) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A second start finds nothing to do.
        let Some(listener) = listener else { return };
        let network = Arc::clone(self);
        let accepting = async move {
            tokio::select! {
                () = listener::accept(&network, listener) => {}
                () = dialler::run(&network) => {}
                () = network.control().ended() => {
                    tracing::error!("ractor's node ended: this node's sessions end with it");
                    network.stopping.cancel();
                    network.close_all();
                }
                () = network.stopping.cancelled() => {}
            }
        };
        tokio::spawn(accepting);
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async {
            self.stopping.cancel();
            // Whoever reads on hears everything that was said, and then ends the session by itself.
            let goodbyes: Vec<_> = self.routes.load().values().cloned().collect();
            for link in &goodbyes {
                link.say(&System::Goodbye);
            }
            let heard = async {
                for link in &goodbyes {
                    link.closing.cancelled().await;
                }
            };
            // Those who do not are left alone.
            drop(tokio::time::timeout(GOODBYE_WITHIN, heard).await);
            for link in self.close_all() {
                link.gone.cancelled().await;
            }
            self.control().stop().await;
            // Whoever registered something may hold this transport.
            *self.handlers.write().unwrap_or_else(PoisonError::into_inner) = Default::default();
            *self.servers.write().unwrap_or_else(PoisonError::into_inner) = Default::default();
            *self.bulk_servers.write().unwrap_or_else(PoisonError::into_inner) = Default::default();
        }
        .boxed()
    }

    fn subscribe(&self, subscriber: Subscriber) {
        self.control().subscribe(subscriber);
    }

    fn sessions(&self) -> Vec<Session> {
        let mut sessions: Vec<_> = self.routes.load().values().map(|link| link.session.clone()).collect();
        sessions.sort_by(|one, other| one.peer.cmp(&other.peer));
        sessions
    }

    fn on_control(&self, channel: Channel, handler: Handler) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner)[channel as usize] = Some(handler);
    }

    fn cast(&self, to: &NodeName, channel: Channel, body: &[u8]) -> Result<(), SendError> {
        let routes = self.routes.load();
        let link = routes.get(to).ok_or(SendError::NoSession)?;
        link.outbox.push(channel as u8, body).inspect_err(|error| self.count_overload(*error))
    }

    fn serve(&self, service: Service, server: Arc<dyn Serve>) {
        self.servers.write().unwrap_or_else(PoisonError::into_inner)[service as usize] = Some(server);
    }

    fn request(
        &self,
        to: &NodeName,
        service: Service,
        deadline: Deadline,
        encode: &mut dyn FnMut(&mut BytesMut),
        done: Done,
    ) {
        let routes = self.routes.load();
        let refused = match routes.get(to).and_then(|link| link.lane.get()) {
            Some(lane) => lane.request(service, deadline, encode, done),
            None => Err((SendError::NoSession, done)),
        };
        if let Err((error, done)) = refused {
            self.count_overload(error);
            done.complete(Err(error.into()));
        }
    }

    fn serve_bulk(&self, service: Service, server: Arc<dyn ServeBulk>) {
        self.bulk_servers.write().unwrap_or_else(PoisonError::into_inner)[service as usize] = Some(server);
    }

    fn open_bulk(
        &self,
        to: &NodeName,
        service: Service,
        header: Bytes,
    ) -> BoxFuture<'_, Result<BulkSink, LaneError>> {
        let link = self.route(to);
        async move { bulk::open(self, link.ok_or(SendError::NoSession)?, service, header).await }.boxed()
    }

    fn meet(&self, address: &str) {
        self.change_dialling(|dialling, now| dialling.handle_meet(now, address));
    }

    fn remember(&self, node: &NodeName, address: &str) {
        self.change_dialling(|dialling, now| dialling.handle_remember(now, node, address));
    }

    fn unmeet(&self, address: &str) {
        self.change_dialling(|dialling, _| dialling.handle_unmeet(address));
    }

    fn forget(&self, node: &NodeName) {
        self.change_dialling(|dialling, _| dialling.handle_forget(node));
    }

    fn disconnect(&self, peer: &NodeBoot) {
        if let Holder::Itself(link) = self.holder(peer) {
            link.close(DownReason::Disconnected);
        }
    }

    fn probe(&self, address: String, within: Duration) -> BoxFuture<'_, Probe> {
        async move {
            match dialler::connect(&address, within).await {
                Ok(_) => Probe::Accepted,
                Err(probe) => probe,
            }
        }
        .boxed()
    }

    fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            hostile: read(&self.counts.hostile),
            refused: read(&self.counts.refused),
            unhandled: read(&self.counts.unhandled),
            overloaded: read(&self.counts.overloaded),
        }
    }
}
