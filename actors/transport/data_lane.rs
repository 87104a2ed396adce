//! The data lane: requests and replies, many under way, on one connection for both directions.
//!
//! ```text
//!  request ─▶ buffer (locked) ─▶ writer: yields once, takes all ─▶ … ─▶ reader: every frame ─▶ server, in batches
//!   done  ◀─ reader: every frame ◀─ … ◀─ writer ◀─ buffer (locked) ◀──────────────────────── Responder
//!
//!  frame: length (u32) · kind (u8) · id (u64) · request: service (u8), within (u32, ms), body
//!                                             · reply:   body
//!                                             · failure: code (u8)
//! ```
//!
//! What decides its speed: whoever writes puts a frame into the connection's buffer and goes on; the writer yields once before it
//! takes the buffer, so that one write carries what many have to say; the reader takes every frame of one read
//! before it lets others run; a reply completes its caller there, without a task or a timer of its own.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tumen_core::Moment;
use tumen_core::cluster::transport::waiting::Waiting;

use super::request::{Failure, Incoming, ReplyTo, Responder, Serve};
use super::socket::Socket;
use super::{DATA_LEN_MAX, Deadline, Done, DownReason, LaneError, SERVICES, SendError, Service, Session};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const FAILURE: u8 = 3;
/// Kind and id.
const HEADER_LEN: usize = 9;
/// Service and time.
const REQUEST_LEN: usize = 5;
/// The longest frame, without its length.
const FRAME_LEN_MAX: usize = HEADER_LEN + REQUEST_LEN + DATA_LEN_MAX;
/// How much is read at once, if there is so much.
const READ_LEN: usize = 64 << 10;
/// How often it is read before what was written in the meantime goes out.
const READS_AT_ONCE: u32 = 8;
/// A buffer that grew beyond this is given back once it is written.
const BUFFER_KEPT: usize = 1 << 20;

/// Knows who serves what.
pub(super) trait Servers: Send + Sync {
    fn server(&self, service: Service) -> Option<Arc<dyn Serve>>;
}

/// One session's data lane.
pub(super) struct DataLane {
    session: Session,
    socket: Socket,
    origin: Instant,
    requests_max: usize,
    window: usize,
    out: Mutex<Out>,
    /// Somebody waits for less long than the deadlines' task sleeps.
    hurried: Notify,
}

struct Out {
    buffer: BytesMut,
    waiting: Waiting<Waiter>,
    /// The bytes of all requests that wait for a reply.
    waiting_bytes: usize,
    /// When the deadlines' task wakes by itself.
    wakes_at: Moment,
    /// Wakes the writer, if it waits for something to write.
    writer: Option<Waker>,
    /// The writer looks into the buffer in any case, as soon as the reader has had its turn.
    writes_soon: bool,
    /// How many of the peer's requests are being served.
    serving: usize,
    closed: bool,
}

impl Out {
    /// Who is to be woken now that something is in the buffer, which was empty (`idle`) before.
    fn writer(&mut self, idle: bool) -> Option<Waker> {
        if idle && !self.writes_soon { self.writer.take() } else { None }
    }
}

struct Waiter {
    done: Done,
    len: usize,
}

impl DataLane {
    pub(super) fn new(session: Session, socket: Socket, requests_max: usize, window: usize) -> Self {
        let out = Out {
            buffer: BytesMut::with_capacity(READ_LEN),
            waiting: Waiting::new(),
            waiting_bytes: 0,
            wakes_at: Moment::MAX,
            writer: None,
            writes_soon: false,
            serving: 0,
            closed: false,
        };
        let hurried = Notify::new();
        Self { session, socket, origin: Instant::now(), requests_max, window, out: Mutex::new(out), hurried }
    }

    /// Sends a request; see [`super::Transport::request`]. Gives `done` back if nothing was sent.
    pub(super) fn request(
        &self,
        service: Service,
        deadline: Deadline,
        encode: &mut dyn FnMut(&mut BytesMut),
        done: Done,
    ) -> Result<(), (SendError, Done)> {
        let due = Moment::ZERO + deadline.instant().saturating_duration_since(self.origin);
        let within = deadline.within();
        let mut guard = self.lock();
        let out = &mut *guard;
        if out.closed {
            return Err((SendError::NoSession, done));
        }
        if out.waiting.len() >= self.requests_max || out.waiting_bytes >= self.window {
            return Err((SendError::Overloaded, done));
        }
        let idle = out.buffer.is_empty();
        let frame = Frame::begin(&mut out.buffer, REQUEST, 0);
        frame.buffer.put_u8(service as u8);
        frame.buffer.put_u32_le(u32::try_from(within.as_millis()).unwrap_or(u32::MAX));
        encode(frame.buffer);
        let len = frame.len() - HEADER_LEN - REQUEST_LEN;
        if len > DATA_LEN_MAX {
            drop(frame);
            return Err((SendError::TooLong { len, max: DATA_LEN_MAX }, done));
        }
        let id = out.waiting.insert(Waiter { done, len }, due);
        frame.finish(id);
        out.waiting_bytes += len;
        let hurried = due < out.wakes_at;
        if hurried {
            out.wakes_at = due;
        }
        let writer = out.writer(idle);
        drop(guard);
        if let Some(writer) = writer {
            writer.wake();
        }
        if hurried {
            self.hurried.notify_one();
        }
        Ok(())
    }

    /// Ends the lane: everybody who waits is told that the session was lost.
    pub(super) fn close(&self) {
        let waiting = {
            let mut out = self.lock();
            out.closed = true;
            out.buffer = BytesMut::new();
            out.waiting_bytes = 0;
            out.waiting.drain()
        };
        self.socket.shut();
        for waiter in waiting {
            complete(waiter, Err(LaneError::Lost { maybe_delivered: true }));
        }
    }

    /// Writes what is in the buffer, as much at once as there is.
    async fn write(&self) -> DownReason {
        let mut socket = self.socket.clone();
        let mut full = BytesMut::with_capacity(READ_LEN);
        loop {
            let busy = poll_fn(|cx| self.poll_buffer(cx)).await;
            // Whoever is about to send may do so first: without this there is one write for every call, with it one
            // for fifty. Where nobody else is under way, it would only cost the one call a detour by the scheduler.
            if busy {
                tokio::task::yield_now().await;
            }
            loop {
                std::mem::swap(&mut self.lock().buffer, &mut full);
                if full.is_empty() {
                    break;
                }
                if socket.write_all(&full).await.is_err() {
                    return DownReason::Closed;
                }
                if full.capacity() > BUFFER_KEPT {
                    full = BytesMut::with_capacity(READ_LEN);
                }
                full.clear();
            }
        }
    }

    /// Waits until there is something to write; then tells whether more is likely to follow at once.
    fn poll_buffer(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut out = self.lock();
        out.writes_soon = false;
        if out.buffer.is_empty() {
            out.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(out.waiting.len() > 1 || out.serving > 0)
    }

    /// Reads frames, and hands on all of one read before it lets others run.
    async fn read(self: &Arc<Self>, servers: &impl Servers) -> DownReason {
        let mut socket = self.socket.clone();
        let mut buffer = BytesMut::with_capacity(READ_LEN);
        let mut harvest = Harvest::default();
        for reads in 1_u32.. {
            // While more and more comes, the writer, which is of the same task, is to have its turn.
            if reads % READS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            buffer.reserve(READ_LEN);
            match socket.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return DownReason::Closed,
                Ok(_) => {}
            }
            let outcome = self.harvest(&mut buffer, &mut harvest);
            self.hand_on(servers, &mut harvest);
            if let Err(why) = outcome {
                return DownReason::Broken(why);
            }
        }
        DownReason::Closed
    }

    /// Takes every whole frame out of the buffer.
    fn harvest(self: &Arc<Self>, buffer: &mut BytesMut, harvest: &mut Harvest) -> Result<(), String> {
        let now = Instant::now();
        while buffer.len() >= 4 {
            let len = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
            if !(HEADER_LEN..=FRAME_LEN_MAX).contains(&len) {
                return Err(format!("a frame of {len} bytes"));
            }
            if buffer.len() < 4 + len {
                buffer.reserve(4 + len - buffer.len());
                return Ok(());
            }
            buffer.advance(4);
            let mut frame = buffer.split_to(len).freeze();
            let (kind, id) = (frame.get_u8(), frame.get_u64_le());
            match kind {
                REPLY => harvest.replies.push((id, Ok(frame))),
                FAILURE => {
                    let failure = frame.first().and_then(|code| Failure::from_wire(*code));
                    let failure = failure.ok_or_else(|| "an unknown failure".to_owned())?;
                    harvest.replies.push((id, Err(failure.into())));
                }
                REQUEST if frame.len() >= REQUEST_LEN => {
                    let service = frame.get_u8();
                    let within = Duration::from_millis(u64::from(frame.get_u32_le()));
                    let to: Arc<dyn ReplyTo> = self.clone();
                    let reply = Responder::new(to, id);
                    // A service of a later version is served by nobody here.
                    let at = if (service as usize) < SERVICES { service as usize } else { 0 };
                    harvest.requests[at].push(Incoming { body: frame, deadline: now + within, reply });
                    harvest.asked += 1;
                }
                REQUEST => return Err("a truncated request".to_owned()),
                other => return Err(format!("an unknown kind of frame: {other}")),
            }
        }
        Ok(())
    }

    fn hand_on(&self, servers: &impl Servers, harvest: &mut Harvest) {
        if !harvest.replies.is_empty() {
            let mut out = self.lock();
            for (id, reply) in harvest.replies.drain(..) {
                // Nobody waits any more for what comes too late.
                let Some(waiter) = out.waiting.take(id) else { continue };
                out.waiting_bytes = out.waiting_bytes.saturating_sub(waiter.len);
                harvest.completed.push((waiter, reply));
            }
            drop(out);
            for (waiter, reply) in harvest.completed.drain(..) {
                complete(waiter, reply);
            }
        }
        if harvest.asked == 0 {
            return;
        }
        let serving = {
            let mut out = self.lock();
            out.writes_soon = true;
            out.serving += std::mem::take(&mut harvest.asked);
            out.serving
        };
        // A peer of ours asks less than this at once; whatever asks more is not to fill this node's memory.
        let overrun = serving > self.requests_max.saturating_mul(2);
        for (service, batch) in harvest.requests.iter_mut().enumerate().filter(|(_, batch)| !batch.is_empty())
        {
            let server = Service::from_wire(service as u8).and_then(|service| servers.server(service));
            match server {
                _ if overrun => batch.drain(..).for_each(|incoming| incoming.reply.fail(Failure::Overloaded)),
                None => batch.drain(..).for_each(|incoming| incoming.reply.fail(Failure::NotServed)),
                Some(server) => {
                    if catch_unwind(AssertUnwindSafe(|| server.serve(batch))).is_err() {
                        tracing::error!(peer = %self.session.peer, service, "a server panicked: its requests are dropped");
                    }
                    batch.clear();
                }
            }
        }
    }

    /// Ends what has waited too long.
    async fn expire(&self) {
        let mut expired = Vec::new();
        loop {
            let next = {
                let mut out = self.lock();
                let next = out.waiting.next_due();
                out.wakes_at = next.unwrap_or(Moment::MAX);
                next
            };
            let due = next.map(|next| self.origin + next.since(Moment::ZERO));
            tokio::select! {
                () = self.hurried.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or(self.origin)), if due.is_some() => {}
            }
            {
                let mut out = self.lock();
                let now = self.now();
                out.waiting.expire(now, &mut expired);
                let bytes: usize = expired.iter().map(|waiter: &Waiter| waiter.len).sum();
                out.waiting_bytes = out.waiting_bytes.saturating_sub(bytes);
            }
            for waiter in expired.drain(..) {
                complete(waiter, Err(LaneError::Timeout));
            }
        }
    }

    fn answer(&self, id: u64, kind: u8, encode: &mut dyn FnMut(&mut BytesMut)) {
        let mut guard = self.lock();
        let out = &mut *guard;
        out.serving = out.serving.saturating_sub(1);
        if out.closed {
            return;
        }
        let idle = out.buffer.is_empty();
        let full = kind == REPLY && out.buffer.len() >= self.window;
        let mut frame = Frame::begin(&mut out.buffer, kind, id);
        if !full {
            encode(frame.buffer);
        }
        if full || frame.len() > FRAME_LEN_MAX {
            drop(frame);
            frame = Frame::begin(&mut out.buffer, FAILURE, id);
            frame.buffer.put_u8(Failure::ReplyLost as u8);
        }
        frame.finish(id);
        let writer = out.writer(idle);
        drop(guard);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        // An encoder that panics leaves no part of a frame behind: see `Frame`.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyTo for DataLane {
    fn session(&self) -> &Session {
        &self.session
    }

    fn reply(&self, id: u64, encode: &mut dyn FnMut(&mut BytesMut)) {
        self.answer(id, REPLY, encode);
    }

    fn fail(&self, id: u64, failure: Failure) {
        self.answer(id, FAILURE, &mut |buffer| buffer.put_u8(failure as u8));
    }
}

/// Runs the lane until its connection ends, and says why.
///
/// It is one task, and reads before it writes: a request that is served at once is answered in the same turn,
/// without a detour by the scheduler.
pub(super) async fn run(servers: &impl Servers, lane: &Arc<DataLane>) -> DownReason {
    tokio::select! {
        biased;
        reason = lane.read(servers) => reason,
        reason = lane.write() => reason,
        () = lane.expire() => DownReason::Closed,
    }
}

fn complete(waiter: Waiter, outcome: Result<Bytes, LaneError>) {
    if catch_unwind(AssertUnwindSafe(|| waiter.done.complete(outcome))).is_err() {
        tracing::error!("what was to be done with a reply panicked");
    }
}

/// What one read brought.
#[derive(Default)]
struct Harvest {
    replies: Vec<(u64, Result<Bytes, LaneError>)>,
    completed: Vec<(Waiter, Result<Bytes, LaneError>)>,
    requests: [Vec<Incoming>; SERVICES],
    asked: usize,
}

/// A frame that is being written: dropped before it is finished, it was never there.
struct Frame<'a> {
    buffer: &'a mut BytesMut,
    start: usize,
    finished: bool,
}

impl<'a> Frame<'a> {
    fn begin(buffer: &'a mut BytesMut, kind: u8, id: u64) -> Self {
        let start = buffer.len();
        buffer.put_u32_le(0);
        buffer.put_u8(kind);
        buffer.put_u64_le(id);
        Self { buffer, start, finished: false }
    }

    /// The length so far, as it is told in the frame.
    fn len(&self) -> usize {
        self.buffer.len() - self.start - 4
    }

    fn finish(mut self, id: u64) {
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let start = self.start;
        self.buffer[start..start + 4].copy_from_slice(&len.to_le_bytes());
        self.buffer[start + 5..start + 13].copy_from_slice(&id.to_le_bytes());
        self.finished = true;
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.buffer.truncate(self.start);
        }
    }
}

#[cfg(test)]
mod tests;
