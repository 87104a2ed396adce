//! Copies: each on a connection of its own, in chunks, with a window of credit, so that little of it is ever under way.
//!
//! ```text
//!  sender                                          receiver
//!    ── service (u8) · header (u32, bytes) ─────────▶
//!    ── DATA (u8) · length (u32) · bytes ───────────▶   queue of two chunks ─▶ BulkStream
//!    ◀── TAKEN (u8) · bytes taken so far (u64) ──────
//!    ── END (u8) · 0 (u32) ─────────────────────────▶
//!    ◀── ANSWER (u8) · length (u32) · bytes ─────────
//!    ◀── FAILED (u8) · code (u8) ────────────────────   at any time
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tumen_core::cluster::transport::Window;

use super::copy::{BulkSink, BulkStream, Chunk};
use super::link::Link;
use super::network::Network;
use super::preface::Lane;
use super::socket::Socket;
use super::{CHUNK_LEN_MAX, Failure, LaneError, SendError, Service};

const DATA: u8 = 1;
const END: u8 = 2;
const TAKEN: u8 = 3;
const ANSWER: u8 = 4;
const FAILED: u8 = 5;
/// The bytes that are read or written in one turn, so that the many hops of a heartbeat do not each wait for a
/// whole chunk.
const TURN: usize = 64 << 10;
/// Chunks that wait between a connection and whoever fills or empties it.
const QUEUE: usize = 2;

/// Begins a copy.
pub(super) async fn open(
    network: &Arc<Network>,
    link: Arc<Link>,
    service: Service,
    header: Bytes,
) -> Result<BulkSink, LaneError> {
    let lost = |_| LaneError::Lost { maybe_delivered: false };
    let (pass, token) = tokio::select! {
        pass = link.ask_pass(network.settings.preface_within) => pass?,
        () = link.closing.cancelled() => return Err(SendError::NoSession.into()),
    };
    let mut socket = network.dial_lane(&link, Lane::Bulk, pass, &token).await.map_err(lost)?;
    link.adopt(&socket);
    let begun = write_frame(&mut socket, service as u8, &header).await;
    begun.map_err(|_| LaneError::Lost { maybe_delivered: true })?;
    let (chunks, queue) = mpsc::channel(QUEUE);
    let (outcome, answer) = oneshot::channel();
    let window = network.settings.bulk_window as u64;
    tokio::spawn(async move {
        let sent = send(&mut socket, queue, window).await;
        socket.shut();
        // Whoever sent may have gone.
        drop(outcome.send(sent));
    });
    Ok(BulkSink::new(chunks, answer))
}

async fn send(
    socket: &mut Socket,
    mut queue: mpsc::Receiver<Chunk>,
    window: u64,
) -> Result<Bytes, LaneError> {
    let lost = |_: io::Error| LaneError::Lost { maybe_delivered: true };
    let mut hearing = socket.clone();
    let mut window = Window::new(window);
    loop {
        // The receiver may give up while there is nothing to send.
        let chunk = tokio::select! {
            chunk = queue.recv() => chunk.ok_or(LaneError::Lost { maybe_delivered: true })?,
            heard = hearing.read_u8() => {
                hear(&mut hearing, heard.map_err(lost)?, &mut window).await?;
                continue;
            }
        };
        match chunk {
            Chunk::Data(bytes) => {
                while !window.reserve(bytes.len() as u64) {
                    let kind = hearing.read_u8().await.map_err(lost)?;
                    hear(&mut hearing, kind, &mut window).await?;
                }
                write_frame(socket, DATA, &bytes).await.map_err(lost)?;
            }
            Chunk::End => {
                write_frame(socket, END, &[]).await.map_err(lost)?;
                loop {
                    let kind = hearing.read_u8().await.map_err(lost)?;
                    if let Some(answer) = hear(&mut hearing, kind, &mut window).await? {
                        return Ok(answer);
                    }
                }
            }
        }
    }
}

/// Hears one thing from the receiver; returns its answer if it is that.
async fn hear(socket: &mut Socket, kind: u8, window: &mut Window) -> Result<Option<Bytes>, LaneError> {
    let lost = |_: io::Error| LaneError::Lost { maybe_delivered: true };
    match kind {
        TAKEN => {
            let total = socket.read_u64_le().await.map_err(lost)?;
            if window.handle_taken(total) { Ok(None) } else { Err(LaneError::Lost { maybe_delivered: true }) }
        }
        ANSWER => Ok(Some(read_bytes(socket).await.map_err(lost)?)),
        FAILED => {
            let code = socket.read_u8().await.map_err(lost)?;
            Err(Failure::from_wire(code).map_or(LaneError::Lost { maybe_delivered: true }, LaneError::from))
        }
        _ => Err(LaneError::Lost { maybe_delivered: true }),
    }
}

/// Takes a copy that a peer begins.
pub(super) async fn receive(network: Arc<Network>, link: Arc<Link>, mut socket: Socket) {
    link.adopt(&socket);
    link.copies.fetch_add(1, Ordering::Relaxed);
    if let Err(failure) = take(&network, &link, &mut socket).await {
        // The sender may have gone; then there is nobody to tell.
        drop(socket.write_all(&[FAILED, failure as u8]).await);
    }
    socket.shut_writing();
    link.copies.fetch_sub(1, Ordering::Relaxed);
}

async fn take(network: &Network, link: &Link, socket: &mut Socket) -> Result<(), Failure> {
    let dropped = |_: io::Error| Failure::Dropped;
    let service = Service::from_wire(socket.read_u8().await.map_err(dropped)?).ok_or(Failure::NotServed)?;
    let header = read_bytes(socket).await.map_err(dropped)?;
    let server = network.bulk_server(service).ok_or(Failure::NotServed)?;
    let (chunks, stream) = mpsc::channel(QUEUE);
    let (answer, answered) = oneshot::channel();
    server.serve_bulk(BulkStream::new(link.session.clone(), header, stream, answer));
    let (mut total, mut told) = (0_u64, 0_u64);
    loop {
        let kind = socket.read_u8().await.map_err(dropped)?;
        let bytes = read_bytes(socket).await.map_err(dropped)?;
        total += bytes.len() as u64;
        let chunk = match kind {
            DATA => Chunk::Data(bytes),
            END => Chunk::End,
            _ => return Err(Failure::Dropped),
        };
        chunks.send(chunk).await.map_err(|_| Failure::Dropped)?;
        if kind == END {
            break;
        }
        // Seldom, or a copy of tiny chunks would fill the way back, which the sender reads only when it must wait; and
        // often enough, for a window has room for two chunks at least.
        if total - told >= CHUNK_LEN_MAX as u64 {
            told = total;
            let mut taken = [TAKEN; 9];
            taken[1..].copy_from_slice(&total.to_le_bytes());
            socket.write_all(&taken).await.map_err(dropped)?;
        }
    }
    let answer = answered.await.map_err(|_| Failure::Dropped)?;
    write_frame(socket, ANSWER, &answer).await.map_err(dropped)
}

async fn write_frame(socket: &mut Socket, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let mut head = [kind; 5];
    head[1..].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    let (first, rest) = bytes.split_at(bytes.len().min(TURN));
    socket.write_all_buf(&mut Buf::chain(head.as_slice(), first)).await?;
    for part in rest.chunks(TURN) {
        tokio::task::yield_now().await;
        socket.write_all(part).await?;
    }
    Ok(())
}

async fn read_bytes(socket: &mut Socket) -> io::Result<Bytes> {
    let len = socket.read_u32_le().await? as usize;
    if len > CHUNK_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = BytesMut::with_capacity(len);
    while bytes.len() < len {
        let part = (len - bytes.len()).min(TURN);
        if socket.read_buf(&mut (&mut bytes).limit(part)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tokio::task::yield_now().await;
    }
    Ok(bytes.freeze())
}
