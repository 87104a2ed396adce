//! Takes connections, a bounded number of them, and gives each to the routes.
//!
//! ```text
//!  accept ─▶ a slot? ─ no ─▶ 503, closed
//!               └ yes ─▶ head in time? ─▶ routes ─▶ answer read in time? ─▶ next request
//!  stop ───▶ no more requests ─▶ answers under way end ─▶ deadline ─▶ cut off
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::shapes::ErrorBody;
use super::socket::{self, Socket};

/// How long to wait before connections are taken again, where the system has no room for more.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How many clients beyond the most connections are told so at once. Others are closed without a word.
const REFUSALS_MAX: usize = 64;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most connections at once.
    pub(crate) connections_max: usize,
    /// How long a request's head may take to come, and how long a connection may be idle.
    pub(crate) head_within: Duration,
    /// How long a client may leave an answer unread.
    pub(crate) stalled_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            head_within: Duration::from_secs(10),
            stalled_after: Duration::from_secs(30),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stopping: CancellationToken,
    tasks: TaskTracker,
    cut_off: CancellationToken,
}

impl Server {
    /// Serves these routes to whoever connects. Streams without end among them must end when `stopping` is cancelled.
    ///
    /// # Errors
    /// If the listener does not know where it listens.
    pub(crate) fn start(
        listener: TcpListener,
        routes: Router,
        limits: Limits,
        stopping: CancellationToken,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let server = Self { address, stopping, tasks: TaskTracker::new(), cut_off: CancellationToken::new() };
        let door = Door {
            routes,
            limits,
            slots: Arc::new(Semaphore::new(limits.connections_max)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            stopping: server.stopping.clone(),
            cut_off: server.cut_off.clone(),
            tasks: server.tasks.clone(),
        };
        server.tasks.spawn(door.accept(listener));
        Ok(server)
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, lets those under way end, and after `within` cuts them off.
    pub(crate) async fn stop(&self, within: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            self.cut_off.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cut_off.cancel();
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    routes: Router,
    limits: Limits,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    stopping: CancellationToken,
    cut_off: CancellationToken,
    tasks: TaskTracker,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => match Arc::clone(&self.slots).try_acquire_owned() {
                    Ok(slot) => drop(self.tasks.spawn(self.clone().serve(stream, slot))),
                    Err(_) => self.refuse(stream),
                },
                // The client is gone already, or there are too many open files: both pass.
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be taken");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let cut_off = self.cut_off.clone();
        tokio::select! {
            biased;
            () = cut_off.cancelled() => {}
            () = self.serve_requests(stream) => {}
        }
        drop(slot);
    }

    async fn serve_requests(self, stream: TcpStream) {
        // Answers are small: waiting for more of them to fill a packet only delays them.
        drop(stream.set_nodelay(true));
        let io = TokioIo::new(Socket::new(stream, self.limits.stalled_after));
        let service = TowerToHyperService::new(self.routes);
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_within)
            .serve_connection(io, service);
        let ended = {
            let mut polled = pin!(std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)));
            tokio::select! {
                ended = polled.as_mut() => Some(ended),
                () = self.stopping.cancelled() => None,
            }
        };
        match ended {
            // What was refused unread may still be coming: the answer must not be lost over it.
            Some(Ok(())) => connection.into_parts().io.into_inner().linger().await,
            Some(Err(error)) if error.is_parse() || error.is_parse_too_large() => {
                connection.into_parts().io.into_inner().linger().await;
            }
            Some(Err(error)) => tracing::debug!(%error, "an HTTP connection ended"),
            None => {
                let mut connection = pin!(connection);
                connection.as_mut().graceful_shutdown();
                drop(connection.await);
            }
        }
    }

    /// There is no slot. Whoever connected is told, as far as a few more connections allow.
    fn refuse(&self, mut stream: TcpStream) {
        let Ok(slot) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let stalled_after = self.limits.stalled_after;
        self.tasks.spawn(async move {
            let busy = ErrorBody::unchanged("overloaded", "too many connections: try again later");
            let answer = socket::full("HTTP/1.1 503 Service Unavailable\r\nretry-after: 1", &busy);
            if stream.write_all(&answer).await.is_ok() {
                Socket::new(stream, stalled_after).linger().await;
            }
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests;
