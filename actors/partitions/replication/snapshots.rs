//! Whole states on their way from copy to copy, in chunks on connections of their own.
//!
//! ```text
//!  sender ─ header, chunk, chunk, ·· ─▶ receiver: all of it here? ─▶ the copy becomes that
//!         ◀──────────── what the copy says ──┘
//! ```
//!
//! When a state may go, [`Transfers`](super::transfers::Transfers) says. A primary that fetches the best log waits for
//! nobody's turn: its partition is not served until it has that.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::ids::NodeName;
use tumen_core::partitions::handover::asks::{Admission, Answer, Ask};
use tumen_core::partitions::handover::{Allowance, Handover};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::wire::{Reply as CopyReply, SnapshotHeader};

use super::Replication;
use super::answers::Slot;
use super::cell::{Cell, Out};
use super::compress;
use super::state::Broken;
use super::transfers::News;
use crate::codec::{self, STATE_LEN_MAX};
use crate::transport::{BulkStream, CHUNK_LEN_MAX, LaneError, ServeBulk, Service};

/// What stands before a state's first byte: where it belongs, how many bytes follow, and, if they are packed, how many the
/// state has.
type Head = (SnapshotHeader, u64, Option<u64>);

/// How long a receiver may take to say whether a state may come.
const ADMIT_WITHIN: Duration = Duration::from_secs(2);
/// How long a state rests whose receiver has no room.
const REST: Duration = Duration::from_millis(50);

/// Why a state did not arrive.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("it is not wanted there any more")]
    Moot,
    #[error("it cannot be written: {0}")]
    Unwritable(#[from] Broken),
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error("the receiver does not answer as a node of this version does")]
    Strange,
}

impl Replication {
    /// A copy's whole state, and its position. The copy's log goes on meanwhile, and so does this node's other work: a
    /// large state takes its time.
    pub(super) async fn state_of(&self, cell: &Arc<Cell>) -> Result<(Position, Bytes), Broken> {
        let taken = Arc::clone(cell);
        let taking = tokio::task::spawn_blocking(move || {
            let mut out = Out::default();
            let state = taken.state(&mut out);
            (state, out)
        });
        let (state, out) = taking.await.map_err(|why| Broken::Unwritable(why.to_string()))?;
        self.perform(cell, out);
        state
    }

    /// Sends a state, once it has its turn, and takes in what comes back.
    pub(super) fn send_snapshot(&self, cell: &Arc<Cell>, to: NodeName, header: SnapshotHeader) {
        if cell.standing().borrow().fence == Some(header.fence) {
            let begun = self.shared.transfers.handle_asked(self.now(), to, header);
            return self.begin_transfers(begun);
        }
        // Another primary asks for it, and cannot open before it has it.
        let (this, cell) = (self.clone(), Arc::clone(cell));
        tokio::spawn(self.shared.stopping.clone().run_until_cancelled_owned(async move {
            let Ok(_turn) = Arc::clone(&this.shared.urgent).acquire_owned().await else { return };
            let handover = Handover { partition: cell.partition, from: this.shared.me.clone(), to };
            if let Err(why) = this.send_state(&cell, &handover, header, false).await {
                tracing::debug!(partition = %handover.partition, to = %handover.to, %why, "a state was not sent");
            }
        }));
    }

    /// Those that have their turn begin.
    pub(super) fn begin_transfers(&self, begun: Vec<Handover>) {
        for handover in begun {
            let Some(header) = self.shared.transfers.header(&handover) else { continue };
            let turn = Turn { replication: self.clone(), handover, header, holds: true };
            let stopping = self.shared.stopping.clone();
            tokio::spawn(stopping.run_until_cancelled_owned(turn.run()));
        }
    }

    /// Forgets states that wait for their turn and are not wanted any more.
    pub(super) fn forget_transfers(&self) {
        self.shared.transfers.retain(self.now(), |handover, header| {
            self.cell(handover.partition).is_some_and(|cell| cell.sends_snapshot(&header.fence, &handover.to))
        });
    }

    /// Whether a state may come to its receiver now.
    async fn admission(&self, to: &NodeName, header: SnapshotHeader) -> Result<Admission, Unsent> {
        match self.ask_copy(to, Ask::Admit(header), ADMIT_WITHIN).await? {
            Answer::Admission(admission) => Ok(admission),
            _ => Err(Unsent::Strange),
        }
    }

    /// Writes a state down and sends it. `paced`: no faster than this node may.
    async fn send_state(
        &self,
        cell: &Arc<Cell>,
        handover: &Handover,
        mut header: SnapshotHeader,
        paced: bool,
    ) -> Result<Option<CopyReply<Bytes>>, Unsent> {
        let (position, bytes) = self.state_of(cell).await?;
        // Newer than the last that was saved, and it holds as surely.
        header.position = position;
        let len = bytes.len() as u64;
        let begun = Instant::now();
        self.shared.transfers.tell(News::Started { handover: handover.clone(), bytes: len });
        let mut done = 0;
        let sent = self.send_chunks(cell, handover, header, bytes, paced, &mut done).await;
        let failed = sent.as_ref().err().map(ToString::to_string);
        let took = begun.elapsed();
        self.shared.transfers.tell(News::Finished { handover: handover.clone(), bytes: done, took, failed });
        sent
    }

    async fn send_chunks(
        &self,
        cell: &Arc<Cell>,
        handover: &Handover,
        header: SnapshotHeader,
        bytes: Bytes,
        paced: bool,
        done: &mut u64,
    ) -> Result<Option<CopyReply<Bytes>>, Unsent> {
        let (mut bytes, unpacked) = compress::pack(bytes, &self.shared.packed).await;
        let len = bytes.len() as u64;
        let head: Head = (header, len, unpacked);
        let opening = self.shared.transport.open_bulk(&handover.to, Service::Handover, codec::encode(&head));
        let mut sink = opening.await?;
        self.shared.transfers.handle_sent(handover, 0, len);
        while !bytes.is_empty() {
            let mut chunk_len = bytes.len().min(CHUNK_LEN_MAX);
            if paced {
                chunk_len = chunk_len.min(self.pace(chunk_len).await);
                if !cell.sends_snapshot(&header.fence, &handover.to) {
                    return Err(Unsent::Moot);
                }
            }
            sink.send(bytes.split_to(chunk_len)).await?;
            *done += chunk_len as u64;
            self.shared.transfers.handle_sent(handover, *done, len);
        }
        let answer = sink.finish().await?;
        codec::decode_body(&answer).map_err(|_| Unsent::Strange)
    }

    /// Waits until bytes may leave, and says how many of these.
    async fn pace(&self, wanted: usize) -> usize {
        loop {
            let now = self.now();
            match self.shared.transfers.take(now, wanted) {
                Allowance::Now(bytes) => return usize::try_from(bytes).unwrap_or(wanted).max(1),
                Allowance::At(at) => tokio::time::sleep(at.since(now)).await,
            }
        }
    }

    /// Takes in a whole state, and answers its sender.
    async fn receive(&self, mut stream: BulkStream) -> Result<(), String> {
        let (header, len, unpacked): Head =
            codec::decode(stream.header(), CHUNK_LEN_MAX).map_err(|error| error.to_string())?;
        if len > STATE_LEN_MAX as u64 {
            return Err(format!("{len} bytes are announced; {STATE_LEN_MAX} are the most"));
        }
        if !self.is_of_this_side(&header.fence) {
            return Err("it is of another side of the cluster".to_owned());
        }
        let (partition, from) = (header.fence.partition, stream.from().node.clone());
        let handover = Handover { partition, from, to: self.shared.me.clone() };
        let mut coming = Coming::begin(self, handover, len);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| error.to_string())?;
            if bytes.len() + chunk.len() > len as usize {
                return Err("more bytes came than were announced".to_owned());
            }
            bytes.extend_from_slice(&chunk);
            coming.note(bytes.len() as u64);
        }
        if bytes.len() as u64 != len {
            return Err(format!("{} of {len} bytes came", bytes.len()));
        }
        let state = compress::unpack(bytes.freeze(), unpacked).await?;
        let answer = self.take_in(header, state).await?;
        coming.failed = None;
        let mut reply = BytesMut::new();
        codec::encode_body_into(&answer, &mut reply).map_err(|error| error.to_string())?;
        stream.answer(reply.freeze());
        Ok(())
    }

    /// Makes a state that came whole a copy's own, and says what to answer: with a disk, once it is there.
    async fn take_in(
        &self,
        header: SnapshotHeader,
        bytes: Bytes,
    ) -> Result<Option<CopyReply<Bytes>>, String> {
        let partition = header.fence.partition;
        if !self.is_confirmed() {
            return Err("it is not known yet which cluster this is".to_owned());
        }
        let record = match &self.shared.disk {
            Some(disk) => {
                let written = disk.write_state(partition, bytes.clone()).await;
                Some(written.map_err(|error| error.to_string())?)
            }
            None => None,
        };
        let cell = self.cell_or_new(partition);
        let (now, taken) = (self.now(), Arc::clone(&cell));
        // Reading a large state takes its time.
        let taking = tokio::task::spawn_blocking(move || {
            let mut out = Out::default();
            let answer = taken.handle_snapshot(now, header, bytes, record, &mut out);
            (answer, out)
        });
        let (answer, out) = taking.await.map_err(|why| why.to_string())?;
        self.perform(&cell, out);
        let Some(answer) = answer.map_err(|why| why.to_string())? else { return Ok(None) };
        let Some(after) = answer.after else { return Ok(Some(answer.reply)) };
        let (slot, written) = oneshot::channel();
        match cell.hold(after, Slot::Alone(slot), answer.reply) {
            Some((_, reply)) => Ok(Some(reply)),
            None => written.await.map(Some).map_err(|_| "the disk failed".to_owned()),
        }
    }
}

/// One state's turn to be sent. Dropped before it is over, it came to nothing: also where the worker's own code panicked
/// while it wrote its state.
struct Turn {
    replication: Replication,
    handover: Handover,
    header: SnapshotHeader,
    /// Whether it still holds its place.
    holds: bool,
}

impl Turn {
    async fn run(mut self) {
        let this = self.replication.clone();
        let Some(cell) = this.cell(self.handover.partition) else { return };
        if !cell.sends_snapshot(&self.header.fence, &self.handover.to) {
            return;
        }
        let (partition, to) = (self.handover.partition, self.handover.to.clone());
        let sent = match this.admission(&to, self.header).await {
            Ok(Admission::Welcome) => this.send_state(&cell, &self.handover, self.header, true).await,
            Ok(Admission::Busy) => return self.rest().await,
            Ok(Admission::Moot) => Err(Unsent::Moot),
            Err(why) => Err(why),
        };
        match sent {
            Ok(Some(reply)) => {
                tracing::debug!(%partition, %to, "sent a state");
                // Its place is free before what it said asks for another one.
                self.give_up_place(false);
                let mut out = Out::default();
                cell.handle_reply(this.now(), reply, &mut out);
                this.perform(&cell, out);
            }
            Ok(None) => tracing::debug!(%partition, %to, "a state was sent, and nothing said to it"),
            Err(why @ Unsent::Unwritable(_)) => {
                tracing::error!(%partition, %to, %why, "a state cannot be sent");
            }
            Err(why) => tracing::debug!(%partition, %to, %why, "a state was not sent"),
        }
    }

    /// Others have their turn; a while later this one wants another.
    async fn rest(mut self) {
        self.give_up_place(true);
        tokio::time::sleep(REST).await;
        let this = &self.replication;
        this.begin_transfers(this.shared.transfers.handle_rested(this.now(), &self.handover));
    }

    fn give_up_place(&mut self, rests: bool) {
        self.holds = false;
        let this = &self.replication;
        let begun = this.shared.transfers.handle_ended(this.now(), &self.handover, &self.header, rests);
        this.begin_transfers(begun);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A node that stops has no turns any more, and perhaps no runtime.
        let stops = self.replication.shared.stopping.is_cancelled();
        if !self.holds || stops || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        self.give_up_place(false);
        // The primary looks anew what the copy needs.
        if let Some(cell) = self.replication.cell(self.handover.partition) {
            let mut out = Out::default();
            let (fence, to) = (&self.header.fence, &self.handover.to);
            cell.handle_snapshot_failed(self.replication.now(), fence, to, &mut out);
            self.replication.perform(&cell, out);
        }
    }
}

/// One state that comes. Dropped, it has come, or will not.
struct Coming<'a> {
    replication: &'a Replication,
    handover: Handover,
    len: u64,
    done: u64,
    begun: Instant,
    failed: Option<&'static str>,
}

impl<'a> Coming<'a> {
    fn begin(replication: &'a Replication, handover: Handover, len: u64) -> Self {
        let transfers = &replication.shared.transfers;
        transfers.handle_coming(replication.now(), &handover);
        transfers.handle_received(&handover, 0, len);
        transfers.tell(News::Started { handover: handover.clone(), bytes: len });
        let failed = Some("it did not come whole, or could not be taken");
        Self { replication, handover, len, done: 0, begun: Instant::now(), failed }
    }

    fn note(&mut self, done: u64) {
        self.done = done;
        self.replication.shared.transfers.handle_received(&self.handover, done, self.len);
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let transfers = &self.replication.shared.transfers;
        transfers.handle_arrived(self.replication.now(), &self.handover);
        transfers.tell(News::Finished {
            handover: self.handover.clone(),
            bytes: self.done,
            took: self.begun.elapsed(),
            failed: self.failed.map(str::to_owned),
        });
    }
}

impl ServeBulk for Replication {
    fn serve_bulk(&self, stream: BulkStream) {
        let this = self.clone();
        tokio::spawn(self.shared.stopping.clone().run_until_cancelled_owned(async move {
            let from = stream.from().clone();
            if let Err(why) = this.receive(stream).await {
                tracing::warn!(%from, %why, "a state that was sent here is not taken");
            }
        }));
    }
}
