//! What anybody would write: length, id and body; a oneshot for each call, and one task that writes.
//!
//! It knows the one trick that decides more than all others: the writer lets everybody else run once before it drains its
//! queue into one write. It has no keys, no workers, no limits, no deadlines, and one reader that echoes on the spot.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::child::{Order, rest};
use super::load::Caller;

const READ_LEN: usize = 64 << 10;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>;

/// Echoes everything on every connection.
pub(super) async fn echo(orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|why| why.to_string())?;
    let address = listener.local_addr().map_err(|why| why.to_string())?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let (reading, writing) = stream.into_split();
            let writer = spawn_writer(writing);
            tokio::spawn(read(reading, move |id, body| drop(writer.send((id, body)))));
        }
    });
    rest(&address, orders).await
}

/// Hands everything on every connection on to all the echoes at `to`, which commas part, and answers it when the first of
/// them has: as a primary does whose write is on most of three copies when one of the two others has it.
pub(super) async fn relay(to: &str, orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|why| why.to_string())?;
    let address = listener.local_addr().map_err(|why| why.to_string())?.to_string();
    let to: Vec<String> = to.split(',').map(str::to_owned).collect();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who is not served is told so by the end of the connection.
            drop(hand_on(stream, &to).await);
        }
    });
    rest(&address, orders).await
}

async fn hand_on(stream: TcpStream, to: &[String]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, writing) = stream.into_split();
    let (caller, unanswered) = (spawn_writer(writing), Arc::<Mutex<HashSet<u64>>>::default());
    let mut echoes = Vec::new();
    for address in to {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reading, writing) = stream.into_split();
        echoes.push(spawn_writer(writing));
        let (caller, unanswered) = (caller.clone(), Arc::clone(&unanswered));
        tokio::spawn(read(reading, move |id, body| {
            let first = unanswered.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if first {
                drop(caller.send((id, body)));
            }
        }));
    }
    tokio::spawn(read(reading, move |id, body| {
        unanswered.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        for echo in &echoes {
            drop(echo.send((id, body.clone())));
        }
    }));
    Ok(())
}

/// The calling end of one connection.
#[derive(Clone)]
pub(super) struct Client {
    writer: mpsc::UnboundedSender<(u64, Bytes)>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl Client {
    pub(super) async fn connect(to: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|why| why.to_string())?;
        stream.set_nodelay(true).map_err(|why| why.to_string())?;
        let (reading, writing) = stream.into_split();
        let waiting = Waiting::default();
        let answered = Arc::clone(&waiting);
        tokio::spawn(async move {
            let take = |id, body| {
                let caller = answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(caller) = caller {
                    drop(caller.send(body));
                }
            };
            read(reading, take).await;
            // Whoever still waits hears that there will be no reply.
            answered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Self { writer: spawn_writer(writing), waiting, next: Arc::default() })
    }
}

impl Caller for Client {
    async fn call(&self, number: u64) -> Result<(), String> {
        let mut body = [7; 64];
        body[..8].copy_from_slice(&number.to_le_bytes());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (caller, reply) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, caller);
        drop(self.writer.send((id, Bytes::copy_from_slice(&body))));
        match reply.await {
            Ok(echo) if *echo == body => Ok(()),
            Ok(_) => Err("another reply".into()),
            Err(_) => Err("the connection ended".into()),
        }
    }
}

fn spawn_writer(mut socket: OwnedWriteHalf) -> mpsc::UnboundedSender<(u64, Bytes)> {
    let (queue, mut queued) = mpsc::unbounded_channel::<(u64, Bytes)>();
    tokio::spawn(async move {
        let mut full = BytesMut::with_capacity(READ_LEN);
        while let Some((id, body)) = queued.recv().await {
            put(&mut full, id, &body);
            tokio::task::yield_now().await;
            while let Ok((id, body)) = queued.try_recv() {
                put(&mut full, id, &body);
            }
            if socket.write_all(&full).await.is_err() {
                return;
            }
            full.clear();
        }
    });
    queue
}

fn put(buffer: &mut BytesMut, id: u64, body: &[u8]) {
    buffer.put_u32_le(8 + body.len() as u32);
    buffer.put_u64_le(id);
    buffer.put_slice(body);
}

/// Takes every frame of one read before it lets others run.
async fn read(mut socket: OwnedReadHalf, mut take: impl FnMut(u64, Bytes)) {
    let mut buffer = BytesMut::with_capacity(READ_LEN);
    while socket.read_buf(&mut buffer).await.is_ok_and(|len| len > 0) {
        while buffer.len() >= 4 {
            let len = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
            if buffer.len() < 4 + len {
                break;
            }
            buffer.advance(4);
            let mut frame = buffer.split_to(len).freeze();
            take(frame.get_u64_le(), frame);
        }
        buffer.reserve(READ_LEN);
    }
}
