//! What copies say to each other: frames go out lane by lane, and are answered together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use tumen_core::ids::NodeName;
use tumen_core::partitions::replication::wire::Request;

use super::Replication;
use super::answers::{self, Frame, Slot};
use super::cell::Out;
use super::encoding;
use super::lane::Lane;
use crate::transport::{DATA_LEN_MAX, Incoming, LaneError, Serve, Service};

/// The most bytes of one partition's entries in a frame, and of all of them, about.
const BATCH_LEN_MAX: usize = 256 << 10;
const FRAME_LEN_MAX: usize = 1 << 20;
/// The most entries of one partition in a frame.
const BATCH_ENTRIES_MAX: usize = 4096;
/// How long a frame may take.
const FRAME_WITHIN: Duration = Duration::from_secs(2);

impl Replication {
    /// Sends what gathers for one node.
    pub(super) async fn run_lane(&self, lane: &Arc<Lane>) {
        loop {
            lane.woken().await;
            // Whoever is about to append more does so first: then it all travels together.
            tokio::task::yield_now().await;
            loop {
                let Ok(permit) = Arc::clone(&lane.frames).acquire_owned().await else { return };
                let (requests, ready) = lane.take();
                if requests.is_empty() && ready.is_empty() {
                    break;
                }
                // Answers to these wait for the other node's disk, whatever the mode: nothing else is to wait with them.
                let asks = |request: &Request<Bytes>| !matches!(request, Request::Append { .. });
                let (asked, mut requests): (Vec<_>, Vec<_>) = requests.into_iter().partition(asks);
                let mut permit = Some(permit);
                if !asked.is_empty() {
                    self.send_frame(&lane.node, &asked, permit.take());
                }
                let now = self.now();
                let mut len = 0;
                for (_, cell) in ready {
                    if len >= FRAME_LEN_MAX {
                        lane.ready(&cell);
                        continue;
                    }
                    let Some((request, more)) =
                        cell.take_batch(now, &lane.node, BATCH_ENTRIES_MAX, BATCH_LEN_MAX)
                    else {
                        continue;
                    };
                    if let Request::Append { entries, .. } = &request {
                        len += entries.iter().map(|entry| entry.weight()).sum::<usize>();
                    }
                    requests.push(request);
                    if more {
                        lane.ready(&cell);
                    }
                }
                if requests.is_empty() {
                    continue;
                }
                if permit.is_none() {
                    permit = Arc::clone(&lane.frames).acquire_owned().await.ok();
                }
                self.send_frame(&lane.node, &requests, permit);
            }
        }
    }

    fn send_frame(&self, node: &NodeName, requests: &[Request<Bytes>], permit: Option<OwnedSemaphorePermit>) {
        let (answered, by) = (self.clone(), node.clone());
        let encode = |buffer: &mut BytesMut| {
            requests.iter().for_each(|request| encoding::put_request(buffer, request));
        };
        self.shared.transport.request(node, Service::Replication, FRAME_WITHIN, encode, move |answer| {
            drop(permit);
            answered.handle_answers(&by, answer);
        });
    }

    /// A frame is answered, or will not be: then the law sends again what it held.
    fn handle_answers(&self, by: &NodeName, answer: Result<Bytes, LaneError>) {
        let Ok(bytes) = answer else { return };
        let replies = match encoding::take_replies(by, bytes) {
            Ok(replies) => replies,
            Err(error) => return tracing::warn!(%by, %error, "what copies answered cannot be read"),
        };
        let now = self.now();
        for reply in replies {
            let Some(cell) = self.cell(reply.fence().partition) else { continue };
            let mut out = Out::default();
            cell.handle_reply(now, reply, &mut out);
            self.perform(&cell, out);
        }
    }
}

impl Serve for Replication {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for mut incoming in batch.drain(..) {
            let len = incoming.body.len();
            let requests = match encoding::take_requests(std::mem::take(&mut incoming.body)) {
                Ok(requests) if len <= DATA_LEN_MAX => requests,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(from = %incoming.from(), %error, "what a primary sent cannot be read");
                    continue;
                }
            };
            if !self.is_confirmed() {
                // It is asked again.
                continue;
            }
            let (now, from) = (self.now(), incoming.from().clone());
            let mut replies = Vec::with_capacity(requests.len());
            let mut late = Vec::new();
            for request in requests {
                if !self.is_of_this_side(request.fence()) {
                    // It is asked again, where both are of one side by then.
                    continue;
                }
                let cell = self.cell_or_new(request.fence().partition);
                let mut out = Out::default();
                let answer = cell.handle_request(now, &from, request, &mut out);
                self.perform(&cell, out);
                match answer.after {
                    None => replies.push(Some(answer.reply)),
                    Some(after) => {
                        late.push((replies.len(), cell, after, answer.reply));
                        replies.push(None);
                    }
                }
            }
            if late.is_empty() {
                answers::send(incoming.reply, &replies.into_iter().flatten().collect::<Vec<_>>());
                continue;
            }
            let frame = Frame::new(replies, incoming.reply);
            for (at, cell, after, reply) in late {
                if let Some((slot, reply)) = cell.hold(after, Slot::Frame(Arc::clone(&frame), at), reply) {
                    slot.fill(reply);
                }
            }
        }
    }
}
