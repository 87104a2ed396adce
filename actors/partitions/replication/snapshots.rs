//! Whole states on their way from copy to copy, in chunks on connections of their own.
//!
//! ```text
//!  sender ─ header, chunk, chunk, ·· ─▶ receiver: all of it here? ─▶ the copy becomes that
//!         ◀──────────── what the copy says ──┘
//! ```

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tumen_core::ids::NodeName;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::wire::{Reply as CopyReply, SnapshotHeader};

use super::Replication;
use super::answers::Slot;
use super::cell::{Cell, Out};
use super::compress;
use super::state::Broken;
use crate::codec::{self, STATE_LEN_MAX};
use crate::transport::{BulkStream, CHUNK_LEN_MAX, LaneError, ServeBulk, Service};

/// What stands before a state's first byte: where it belongs, how many bytes follow, and, if they are packed, how many the
/// state has.
type Head = (SnapshotHeader, u64, Option<u64>);

impl Replication {
    /// A copy's whole state, and its position. The copy's log goes on meanwhile.
    pub(super) async fn state_of(&self, cell: &Arc<Cell>) -> Result<(Position, Bytes), Broken> {
        let mut out = Out::default();
        let state = cell.state(&mut out);
        self.perform(cell, out);
        state
    }

    /// Sends a state, and takes in what comes back.
    pub(super) fn send_snapshot(&self, cell: &Arc<Cell>, to: NodeName, mut header: SnapshotHeader) {
        let (this, cell) = (self.clone(), Arc::clone(cell));
        tokio::spawn(self.shared.stopping.clone().run_until_cancelled_owned(async move {
            let partition = cell.partition;
            let mut out = Out::default();
            let bytes = match this.state_of(&cell).await {
                Ok((position, bytes)) => {
                    // Newer than the last that was saved, and it holds as surely.
                    header.position = position;
                    bytes
                }
                Err(why) => {
                    tracing::error!(%partition, %to, %why, "a state cannot be sent");
                    cell.handle_snapshot_failed(this.now(), &to, &mut out);
                    return this.perform(&cell, out);
                }
            };
            let len = bytes.len();
            match this.send_chunks(&to, header, bytes).await {
                Ok(answer) => {
                    tracing::debug!(%partition, %to, len, "sent a state");
                    if let Some(reply) = answer {
                        cell.handle_reply(this.now(), reply, &mut out);
                    }
                }
                Err(error) => {
                    tracing::debug!(%partition, %to, len, %error, "a state was not sent");
                    cell.handle_snapshot_failed(this.now(), &to, &mut out);
                }
            }
            this.perform(&cell, out);
        }));
    }

    async fn send_chunks(
        &self,
        to: &NodeName,
        header: SnapshotHeader,
        bytes: Bytes,
    ) -> Result<Option<CopyReply<Bytes>>, LaneError> {
        let (mut bytes, unpacked) = compress::pack(bytes, &self.shared.packed).await;
        let head: Head = (header, bytes.len() as u64, unpacked);
        let mut sink = self.shared.transport.open_bulk(to, Service::Handover, codec::encode(&head)).await?;
        while !bytes.is_empty() {
            sink.send(bytes.split_to(bytes.len().min(CHUNK_LEN_MAX))).await?;
        }
        let answer = sink.finish().await?;
        codec::decode_body(&answer).map_err(|_| LaneError::Unanswered)
    }

    /// Takes in a whole state, and answers its sender.
    async fn receive(&self, mut stream: BulkStream) -> Result<(), String> {
        let (header, len, unpacked): Head =
            codec::decode(stream.header(), CHUNK_LEN_MAX).map_err(|error| error.to_string())?;
        if len > STATE_LEN_MAX as u64 {
            return Err(format!("{len} bytes are announced; {STATE_LEN_MAX} are the most"));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| error.to_string())?;
            if bytes.len() + chunk.len() > len as usize {
                return Err("more bytes came than were announced".to_owned());
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() as u64 != len {
            return Err(format!("{} of {len} bytes came", bytes.len()));
        }
        let state = compress::unpack(bytes.freeze(), unpacked).await?;
        let answer = self.take_in(header, state).await?;
        let mut reply = BytesMut::new();
        codec::encode_body_into(&answer, &mut reply).map_err(|error| error.to_string())?;
        stream.answer(reply.freeze());
        Ok(())
    }
}

impl Replication {
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
        let mut out = Out::default();
        let answer = cell.handle_snapshot(self.now(), header, bytes, record, &mut out);
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
