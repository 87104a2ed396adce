//! How fast the lanes are: calls between two processes on loopback, beside a bare multiplexed RPC in the same run, and the control
//! lane's round trip while a gigabyte is copied.
//!
//! `cargo run --release -p tumen-actors --example lanes [rounds] [threads]`

#![allow(clippy::print_stdout, reason = "it is there to print")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tumen_actors::clock::{Clock, new_boot};
use tumen_actors::transport::{
    BulkStream, CHUNK_LEN_MAX, Channel, Cookie, Incoming, Service, Session, Settings, Transport, network,
};
use tumen_core::cluster::greeting::Greeting;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::ids::{ClusterName, NodeBoot, NodeName};
use tumen_core::wire::PROTOCOL;

const BODY: [u8; 64] = [7; 64];
const PERIOD: Duration = Duration::from_millis(700);

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().collect();
    let serving = args.get(1).is_some_and(|arg| arg == "serve");
    let number = |at: usize, default| args.get(at).and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (rounds, threads) = (number(if serving { 9 } else { 1 }, 5), number(2, 2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    if serving { runtime.block_on(serve()) } else { runtime.block_on(measure(rounds, threads)) }
}

async fn node(name: &str) -> Result<(Transport, String, TcpListener), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let greeting = Greeting {
        modes: Vec::new(),
        protocol: PROTOCOL,
        cluster: ClusterName::new("bench")?,
        belongs: None,
        info: NodeInfo {
            id: NodeBoot::new(NodeName::new(name)?, new_boot(&Clock::system())),
            address: address.clone(),
            http: None,
            zone: None,
            weight: 100,
            services: Vec::new(),
            protocol: PROTOCOL,
        },
        groups: Vec::new(),
        lease: tumen_core::cluster::lease::Config::default(),
        consistency: tumen_core::cluster::sides::Consistency::Majority,
    };
    let settings = Settings::default();
    let transport =
        network::open(&listener, Arc::new(move || greeting.clone()), Cookie::none(), settings).await?;
    Ok((transport, address, listener))
}

/// The other process: echoes, and says where.
async fn serve() -> Result<(), Failed> {
    let (transport, address, _listener) = node("b").await?;
    transport.serve(
        Service::Application,
        Arc::new(|batch: &mut Vec<Incoming>| {
            for Incoming { body, reply, .. } in batch.drain(..) {
                reply.send(&body);
            }
        }),
    );
    transport.serve_bulk(
        Service::Application,
        Arc::new(|mut stream: BulkStream| {
            tokio::spawn(async move {
                let mut len = 0_u64;
                while let Some(Ok(chunk)) = stream.next().await {
                    len += chunk.len() as u64;
                }
                stream.answer(Bytes::from(len.to_string()));
            });
        }),
    );
    let echo = transport.clone();
    let pong = move |from: &Session, body: Bytes| {
        // The caller waits for another pong.
        let _ = echo.cast(&from.peer.node, Channel::Application, &body);
    };
    transport.on_control(Channel::Application, Arc::new(pong));
    transport.start();
    let queued = bare::serve(bare::Style::Queue).await?;
    let locked = bare::serve(bare::Style::Locked).await?;
    println!("{address} {queued} {locked}");
    // It ends with whoever started it.
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    std::process::exit(0);
}

struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn measure(rounds: usize, threads: usize) -> Result<(), Failed> {
    let mut other = Command::new(std::env::current_exe()?)
        .args(["serve", &threads.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = other.stdout.take().ok_or("no output")?;
    let other = Other(other);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let mut word = || words.next().map(str::to_owned).ok_or("no address");
    let (address, queued, locked) = (word()?, word()?, word()?);

    let (transport, _, _listener) = node("a").await?;
    let (up, is_up) = mpsc::unbounded_channel();
    transport.subscribe(Arc::new(move |_| {
        let _ = up.send(());
    }));
    transport.start();
    let begun = Instant::now();
    transport.meet(&address);
    let mut is_up = is_up;
    is_up.recv().await.ok_or("no session")?;
    println!("first session after {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);

    let b = NodeName::new("b")?;
    let queued = bare::Client::connect(&queued, bare::Style::Queue).await?;
    let locked = bare::Client::connect(&locked, bare::Style::Locked).await?;
    println!("threads per process: {threads}; rounds: {rounds}");
    println!(
        "thousand calls a second: middle round (best round); middle round trip; processor time a call, both sides"
    );
    let bench = Bench { rounds, server: other.0.id() };
    for outstanding in [1, 64, 1024] {
        let call = |client: &Arc<bare::Client>| {
            let client = Arc::clone(client);
            move || {
                let client = Arc::clone(&client);
                async move { client.call(&BODY).await.map(drop) }
            }
        };
        let (queued, locked) = (call(&queued), call(&locked));
        let lane = {
            let (transport, b) = (transport.clone(), b.clone());
            move || {
                let (transport, b) = (transport.clone(), b.clone());
                async move {
                    let encode = |buffer: &mut BytesMut| buffer.put_slice(&BODY);
                    let reply =
                        transport.call(&b, Service::Application, Duration::from_secs(5), encode).await;
                    reply.ok().map(drop)
                }
            }
        };
        let mut runs: [Vec<Run>; 3] = Default::default();
        for _ in 0..bench.rounds {
            runs[0].push(bench.load(outstanding, queued.clone()).await);
            runs[1].push(bench.load(outstanding, locked.clone()).await);
            runs[2].push(bench.load(outstanding, lane.clone()).await);
        }
        let summed = runs.map(|runs| Summary::of(&runs));
        for (name, it) in ["bare, queue", "bare, locked", "data lane"].into_iter().zip(&summed) {
            println!(
                "{outstanding:>5} {name:<13} {:>8.1} ({:>7.1}) k/s {:>8.1} µs {:>6.2} µs",
                it.rate, it.best, it.middle, it.cpu
            );
        }
        let [queue, lock, lane] = summed;
        println!(
            "{outstanding:>5} lane beside queue: {:.2} (best {:.2}), round trip {:.2}, processor {:.2}; beside locked: {:.2} (best {:.2}), {:.2}, {:.2}",
            lane.rate / queue.rate,
            lane.best / queue.best,
            lane.middle / queue.middle,
            lane.cpu / queue.cpu,
            lane.rate / lock.rate,
            lane.best / lock.best,
            lane.middle / lock.middle,
            lane.cpu / lock.cpu,
        );
    }
    control(&transport, &b).await
}

struct Bench {
    rounds: usize,
    server: u32,
}

/// One round: thousand calls a second, the middle round trip in µs, and the processor's µs for each call.
struct Run {
    rate: f64,
    middle: f64,
    cpu: f64,
}

struct Summary {
    rate: f64,
    best: f64,
    middle: f64,
    cpu: f64,
}

impl Summary {
    fn of(runs: &[Run]) -> Self {
        let median = |of: fn(&Run) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let best = runs.iter().map(|run| run.rate).fold(0.0, f64::max);
        Self {
            rate: median(|run| run.rate),
            best,
            middle: median(|run| run.middle),
            cpu: median(|run| run.cpu),
        }
    }
}

impl Bench {
    /// Keeps `outstanding` calls under way for a while.
    async fn load<F, C>(&self, outstanding: usize, call: F) -> Run
    where
        F: Fn() -> C + Clone + Send + 'static,
        C: Future<Output = Option<()>> + Send,
    {
        let (begun, cpu) = (Instant::now(), self.cpu());
        let tasks: Vec<_> = (0..outstanding)
            .map(|_| {
                let call = call.clone();
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while begun.elapsed() < PERIOD {
                        let begun = Instant::now();
                        call().await.expect("an answer");
                        times.push(begun.elapsed().as_secs_f64() * 1e6);
                    }
                    times
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.expect("no panic"));
        }
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64() / 1e3;
        let cpu = (self.cpu() - cpu) / times.len() as f64;
        times.sort_by(f64::total_cmp);
        Run { rate, middle: times[times.len() / 2], cpu }
    }

    /// The µs of processor time that both processes have had, as exactly as the system counts them.
    fn cpu(&self) -> f64 {
        let of = |process: &str| {
            let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
            let nanos = threads.filter_map(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                stat.split(' ').next()?.parse::<f64>().ok()
            });
            nanos.sum::<f64>() / 1e3
        };
        of("self") + of(&self.server.to_string())
    }
}

/// The control lane's round trip, alone and beside a copy of a gigabyte.
async fn control(transport: &Transport, b: &NodeName) -> Result<(), Failed> {
    let (pong, mut pongs) = mpsc::unbounded_channel();
    let ponged = move |_: &Session, _: Bytes| {
        let _ = pong.send(());
    };
    transport.on_control(Channel::Application, Arc::new(ponged));
    let copied = Arc::new(AtomicU64::new(0));
    for copying in [false, true] {
        let copy = async {
            let begun = Instant::now();
            if copying {
                let mut sink = transport.open_bulk(b, Service::Application, Bytes::new()).await?;
                let chunk = Bytes::from(vec![1; CHUNK_LEN_MAX]);
                for _ in 0..(1 << 30) / CHUNK_LEN_MAX {
                    sink.send(chunk.clone()).await?;
                }
                sink.finish().await?;
            } else {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            copied.store(1, Ordering::Relaxed);
            Ok::<Duration, Failed>(begun.elapsed())
        };
        copied.store(0, Ordering::Relaxed);
        let pings = async {
            let mut times = Vec::new();
            while copied.load(Ordering::Relaxed) == 0 {
                let begun = Instant::now();
                transport.cast(b, Channel::Application, b"ping")?;
                pongs.recv().await.ok_or("no pong")?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times.sort_by(f64::total_cmp);
            Ok::<Vec<f64>, Failed>(times)
        };
        let (took, times) = tokio::join!(copy, pings);
        let (took, times) = (took?, times?);
        println!(
            "control round trip {}: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms of {} ({:.2} s)",
            if copying { "beside a copy of 1 GiB" } else { "alone" },
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            times[times.len() - 1],
            times.len(),
            took.as_secs_f64(),
        );
    }
    Ok(())
}

/// What anybody would write: length, id and body; a oneshot for each call; one task that writes.
mod bare {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) enum Style {
        /// Callers send to the writer's queue, and it drains the queue into each write.
        Queue,
        /// Callers append to one locked buffer, and the writer yields once before it takes it.
        Locked,
    }

    struct Writer {
        style: Style,
        queue: mpsc::UnboundedSender<(u64, Bytes)>,
        buffer: Mutex<BytesMut>,
        wake: Notify,
    }

    fn put(buffer: &mut BytesMut, id: u64, body: &[u8]) {
        buffer.put_u32_le(8 + body.len() as u32);
        buffer.put_u64_le(id);
        buffer.put_slice(body);
    }

    impl Writer {
        fn spawn(style: Style, mut socket: tokio::net::tcp::OwnedWriteHalf) -> Arc<Self> {
            let (queue, mut queued) = mpsc::unbounded_channel::<(u64, Bytes)>();
            let writer = Arc::new(Self { style, queue, buffer: Mutex::default(), wake: Notify::new() });
            let it = Arc::clone(&writer);
            tokio::spawn(async move {
                let mut full = BytesMut::new();
                loop {
                    match style {
                        Style::Queue => {
                            let Some((id, body)) = queued.recv().await else { return };
                            put(&mut full, id, &body);
                            while let Ok((id, body)) = queued.try_recv() {
                                put(&mut full, id, &body);
                            }
                        }
                        Style::Locked => {
                            it.wake.notified().await;
                            tokio::task::yield_now().await;
                            std::mem::swap(&mut *it.buffer.lock().expect("no panic"), &mut full);
                        }
                    }
                    if socket.write_all(&full).await.is_err() {
                        return;
                    }
                    full.clear();
                }
            });
            writer
        }

        fn send(&self, id: u64, body: &[u8]) {
            match self.style {
                Style::Queue => drop(self.queue.send((id, Bytes::copy_from_slice(body)))),
                Style::Locked => {
                    let mut buffer = self.buffer.lock().expect("no panic");
                    let idle = buffer.is_empty();
                    put(&mut buffer, id, body);
                    drop(buffer);
                    if idle {
                        self.wake.notify_one();
                    }
                }
            }
        }
    }

    async fn read(mut socket: tokio::net::tcp::OwnedReadHalf, mut take: impl FnMut(u64, Bytes)) {
        let mut buffer = BytesMut::with_capacity(64 << 10);
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
            buffer.reserve(64 << 10);
        }
    }

    pub(super) async fn serve(style: Style) -> Result<String, Failed> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                let (reading, writing) = stream.into_split();
                let writer = Writer::spawn(style, writing);
                tokio::spawn(read(reading, move |id, body| writer.send(id, &body)));
            }
        });
        Ok(address)
    }

    pub(super) struct Client {
        writer: Arc<Writer>,
        waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>,
        next: AtomicU64,
    }

    impl Client {
        pub(super) async fn connect(address: &str, style: Style) -> Result<Arc<Self>, Failed> {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (reading, writing) = stream.into_split();
            let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>> = Arc::default();
            let answered = Arc::clone(&waiting);
            tokio::spawn(read(reading, move |id, body| {
                if let Some(caller) = answered.lock().expect("no panic").remove(&id) {
                    drop(caller.send(body));
                }
            }));
            Ok(Arc::new(Self { writer: Writer::spawn(style, writing), waiting, next: AtomicU64::new(0) }))
        }

        pub(super) async fn call(&self, body: &[u8]) -> Option<Bytes> {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let (caller, reply) = oneshot::channel();
            self.waiting.lock().expect("no panic").insert(id, caller);
            self.writer.send(id, body);
            reply.await.ok()
        }
    }
}
