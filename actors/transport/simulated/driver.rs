//! The one task of a simulated world: it lets things happen when their time has come, and calls whom they concern.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tumen_core::ids::{NodeBoot, NodeName};

use super::Inner;
use super::agenda::State;
use super::link::Stage;
use crate::transport::copy::{BulkSink, BulkStream, Chunk, ServeBulk};
use crate::transport::{
    DATA_LEN_MAX, Done, DownReason, Event, Failure, Handler, Incoming, LaneError, ReplyTo, Responder,
    SendError, Serve, Service, Session, Subscriber,
};

/// Somebody who is to be called while no lock is held.
pub(super) enum Call {
    Handle(Handler, Session, Bytes),
    Tell(Subscriber, Event),
    Complete(Done, Result<Bytes, LaneError>),
    Serve {
        server: Arc<dyn Serve>,
        service: Service,
        link: u64,
        end: usize,
        session: Session,
        id: u64,
        deadline: Instant,
        body: Bytes,
    },
}

/// Drives the world until it is dropped.
pub(super) async fn drive(world: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let Some(world) = world.upgrade() else { return };
        let next = {
            let mut state = world.lock();
            let now = Instant::now();
            while let Some(entry) = state.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
                let action = entry.remove();
                state.handle(action);
            }
            if state.calls.is_empty() {
                Ok(state.agenda.first_key_value().map(|((at, _), _)| *at))
            } else {
                Err(std::mem::take(&mut state.calls))
            }
        };
        match next {
            Err(calls) => run_calls(&world, calls),
            Ok(next) => {
                drop(world);
                match next {
                    Some(at) => drop(tokio::time::timeout_at(at, wake.notified()).await),
                    None => wake.notified().await,
                }
            }
        }
    }
}

fn run_calls(world: &Arc<Inner>, calls: Vec<Call>) {
    let mut calls = calls.into_iter().peekable();
    while let Some(call) = calls.next() {
        // Requests for one service that came together are served together, as a real reader does it.
        let outcome = catch_unwind(AssertUnwindSafe(|| match call {
            Call::Handle(handler, session, body) => handler(&session, body),
            Call::Tell(subscriber, event) => subscriber(event),
            Call::Complete(done, outcome) => done.complete(outcome),
            Call::Serve { server, service, link, end, session, id, deadline, body } => {
                let to = Arc::new(Replies { world: Arc::clone(world), link, end, session });
                let incoming = |id, deadline, body| {
                    let to: Arc<dyn ReplyTo> = to.clone();
                    Incoming { body, deadline, reply: Responder::new(to, id) }
                };
                let mut batch = vec![incoming(id, deadline, body)];
                let same = |call: &Call| matches!(call, Call::Serve { service: s, link: l, end: e, .. } if (*s, *l, *e) == (service, link, end));
                while let Some(Call::Serve { id, deadline, body, .. }) = calls.next_if(same) {
                    batch.push(incoming(id, deadline, body));
                }
                server.serve(&mut batch);
            }
        }));
        if outcome.is_err() {
            tracing::error!("a handler of the transport panicked: its message is lost");
        }
    }
}

/// Where the replies to one end's requests go.
struct Replies {
    world: Arc<Inner>,
    link: u64,
    end: usize,
    session: Session,
}

impl ReplyTo for Replies {
    fn session(&self) -> &Session {
        &self.session
    }

    fn reply(&self, id: u64, encode: &mut dyn FnMut(&mut BytesMut)) {
        let mut body = BytesMut::new();
        encode(&mut body);
        let outcome = if body.len() > DATA_LEN_MAX { Err(LaneError::ReplyLost) } else { Ok(body.freeze()) };
        self.answer(id, outcome);
    }

    fn fail(&self, id: u64, failure: Failure) {
        self.answer(id, Err(failure.into()));
    }
}

impl Replies {
    fn answer(&self, id: u64, outcome: Result<Bytes, LaneError>) {
        self.world.change(|state| {
            let open = state.links.get(&self.link).is_some_and(|l| l.ends[self.end].stage == Stage::Up);
            if open {
                state.reply(self.link, self.end, id, outcome);
            }
        });
    }
}

// What people do to the world.

impl State {
    fn index(&self, node: &NodeName) -> Option<usize> {
        self.nodes.iter().rposition(|it| it.local.node == *node)
    }

    pub(super) fn freeze(&mut self, node: &NodeName) {
        if let Some(index) = self.index(node) {
            self.nodes[index].frozen = true;
            self.handle_paths_changed();
        }
    }

    pub(super) fn thaw(&mut self, node: &NodeName) {
        let Some(index) = self.index(node) else { return };
        let it = &mut self.nodes[index];
        it.frozen = false;
        let (missed, unsent) = (std::mem::take(&mut it.missed), std::mem::take(&mut it.unsent));
        self.handle_paths_changed();
        for action in missed {
            self.plan(Duration::ZERO, action);
        }
        for (way, action) in unsent {
            self.transmit(way, action);
        }
    }

    /// Returns those who waited for replies in the crashed node: to be dropped without the lock.
    pub(super) fn crash(&mut self, node: &NodeBoot) -> Vec<Done> {
        let Some(index) = self.nodes.iter().position(|it| it.local == *node) else { return Vec::new() };
        self.end(index, false)
    }

    /// As [`State::crash`], but the node hears of the end of its sessions.
    pub(super) fn stop(&mut self, index: usize) -> Vec<Done> {
        self.end(index, true)
    }

    pub(super) fn end_all(&mut self) -> Vec<Done> {
        (0..self.nodes.len()).flat_map(|index| self.end(index, false)).collect()
    }

    fn end(&mut self, index: usize, told: bool) -> Vec<Done> {
        let it = &mut self.nodes[index];
        it.frozen = false;
        it.missed.clear();
        it.unsent.clear();
        it.started = false;
        it.alive = told && it.alive;
        let mut waiting = Vec::new();
        for link in it.links.values().copied().collect::<Vec<_>>() {
            if !told && let Some(link) = self.links.get_mut(&link) {
                for end in link.ends.iter_mut().filter(|end| end.node == index) {
                    waiting.extend(std::mem::take(&mut end.requests).into_values().map(|(done, _)| done));
                }
            }
            self.close_end_of(link, index, DownReason::Stopped);
        }
        let it = &mut self.nodes[index];
        it.alive = false;
        // What it registered may hold its transport, and so the world.
        (it.handlers, it.servers, it.bulk_servers) = Default::default();
        it.subscriber = None;
        waiting
    }

    pub(super) fn break_session(&mut self, one: &NodeName, other: &NodeName) {
        let link = self.index(one).and_then(|index| self.session(index, other));
        if let Some((link, _)) = link {
            self.break_link(link);
        }
    }
}

// Copies: a task for each, which ends with the session.

pub(super) fn open_bulk(
    world: &Arc<Inner>,
    node: usize,
    to: &NodeName,
    service: Service,
    header: Bytes,
) -> Result<BulkSink, LaneError> {
    let state = world.lock();
    let (link, end) = state.session(node, to).ok_or(SendError::NoSession)?;
    let ends = &state.links[&link].ends;
    let closed = ends[end].closed.subscribe();
    let peer = ends[1 - end].node;
    let server = state.nodes[peer].bulk_servers[service as usize].clone();
    let way = Pump { world: Arc::clone(world), from: node, to: peer, closed };
    let from = ends[1 - end].session.clone();
    drop(state);
    let server = server.ok_or(LaneError::NotServed)?;
    let (chunks, queue) = mpsc::channel(4);
    let (answer, outcome) = oneshot::channel();
    tokio::spawn(async move {
        // Whoever asked may have gone.
        drop(answer.send(way.pump(server, from, header, queue).await));
    });
    Ok(BulkSink::new(chunks, outcome))
}

struct Pump {
    world: Arc<Inner>,
    from: usize,
    to: usize,
    closed: watch::Receiver<bool>,
}

impl Pump {
    async fn pump(
        mut self,
        server: Arc<dyn ServeBulk>,
        from: Session,
        header: Bytes,
        mut queue: mpsc::Receiver<Chunk>,
    ) -> Result<Bytes, LaneError> {
        self.travel().await?;
        let (chunks, stream) = mpsc::channel(4);
        let (answer, answered) = oneshot::channel();
        server.serve_bulk(BulkStream::new(from, header, stream, answer));
        loop {
            let chunk = queue.recv().await.ok_or(LaneError::Lost { maybe_delivered: true })?;
            let last = matches!(chunk, Chunk::End);
            self.travel().await?;
            tokio::select! {
                sent = chunks.send(chunk) => sent.map_err(|_| LaneError::Unanswered)?,
                () = over(&mut self.closed) => return Err(LaneError::Lost { maybe_delivered: true }),
            }
            if last {
                break;
            }
        }
        let answer = tokio::select! {
            answer = answered => answer.map_err(|_| LaneError::Unanswered)?,
            () = over(&mut self.closed) => return Err(LaneError::Lost { maybe_delivered: true }),
        };
        self.travel().await?;
        Ok(answer)
    }

    /// Waits as long as something takes to get there: while the way is cut, until it is healed or the session ends.
    async fn travel(&mut self) -> Result<(), LaneError> {
        loop {
            let (open, latency) = {
                let mut state = self.world.lock();
                let frozen = state.nodes[self.from].frozen || state.nodes[self.to].frozen;
                (state.reaches(self.from, self.to) && !frozen, state.latency())
            };
            let wait = if open { latency } else { Duration::from_millis(1) };
            tokio::select! {
                () = tokio::time::sleep(wait) => if open { return Ok(()) },
                () = over(&mut self.closed) => return Err(LaneError::Lost { maybe_delivered: true }),
            }
        }
    }
}

async fn over(closed: &mut watch::Receiver<bool>) {
    // An error means that the session is gone altogether.
    drop(closed.wait_for(|closed| *closed).await);
}
