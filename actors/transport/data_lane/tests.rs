//! Two lanes, one connection, no network around them.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};
use tumen_core::ids::{Boot, NodeBoot, NodeName};

use super::*;

/// Serves everything in one way.
struct All(Arc<dyn Serve>);

impl Servers for All {
    fn server(&self, service: Service) -> Option<Arc<dyn Serve>> {
        (service != Service::Handover).then(|| Arc::clone(&self.0))
    }
}

fn echo(batch: &mut Vec<Incoming>) {
    for Incoming { body, reply, .. } in batch.drain(..) {
        reply.send(&body);
    }
}

async fn sockets() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
    (Socket::new(ours.unwrap()).unwrap(), Socket::new(theirs.unwrap().0).unwrap())
}

fn lane(socket: Socket, requests_max: usize, window: usize) -> Arc<DataLane> {
    let peer = NodeBoot::new(NodeName::new("peer").unwrap(), Boot(1));
    Arc::new(DataLane::new(Session { peer, number: 1 }, socket, requests_max, window))
}

/// A lane that asks, and one that serves; both run.
async fn pair(server: impl Serve) -> Arc<DataLane> {
    let (ours, theirs) = sockets().await;
    let (asking, serving) = (lane(ours, 1000, DATA_LEN_MAX), lane(theirs, 1000, DATA_LEN_MAX));
    let (it, all) = (Arc::clone(&asking), All(Arc::new(echo)));
    tokio::spawn(async move {
        run(&all, &it).await;
        it.close();
    });
    let all = All(Arc::new(server));
    tokio::spawn(async move {
        run(&all, &serving).await;
        serving.close();
    });
    asking
}

async fn ask(lane: &DataLane, service: Service, within: Duration, body: &[u8]) -> Result<Bytes, LaneError> {
    let (caller, reply) = tokio::sync::oneshot::channel();
    let encode = &mut |buffer: &mut BytesMut| buffer.extend_from_slice(body);
    match lane.request(service, Deadline::after(within), encode, Done::Wake(caller)) {
        Ok(()) => reply.await.expect("every request ends"),
        Err((error, _)) => Err(error.into()),
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn requests_of_all_lengths_come_back() {
    let lane = pair(echo).await;
    for len in [0, 1, 64, 100_000, DATA_LEN_MAX] {
        let body = vec![len as u8; len];
        assert_eq!(ask(&lane, Service::Application, LONG, &body).await.unwrap(), body);
    }
    let long = vec![0; DATA_LEN_MAX + 1];
    let refused = ask(&lane, Service::Application, LONG, &long).await;
    assert_eq!(refused, Err(SendError::TooLong { len: DATA_LEN_MAX + 1, max: DATA_LEN_MAX }.into()));
    assert_eq!(ask(&lane, Service::Application, LONG, b"after").await.unwrap(), "after");
}

#[tokio::test]
async fn thousands_of_requests_are_each_answered_with_their_own_reply() {
    let lane = pair(echo).await;
    let callers: Vec<_> = (0..900_u32)
        .map(|caller| {
            let lane = Arc::clone(&lane);
            tokio::spawn(async move {
                for number in 0..20_u32 {
                    let body = [caller.to_le_bytes(), number.to_le_bytes()].concat();
                    assert_eq!(ask(&lane, Service::Partition, LONG, &body).await.unwrap(), body);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(lane.lock().waiting.is_empty());
    assert_eq!(lane.lock().waiting_bytes, 0);
}

#[tokio::test]
async fn whatever_a_server_does_the_caller_hears_of_it() {
    let lane = pair(|batch: &mut Vec<Incoming>| {
        for incoming in batch.drain(..) {
            match incoming.body.as_ref() {
                b"drop" => drop(incoming),
                b"busy" => incoming.reply.fail(Failure::Overloaded),
                b"long" => incoming.reply.send(&vec![0; DATA_LEN_MAX + 6]),
                b"panic" => panic!("a server's"),
                _ => std::mem::forget(incoming),
            }
        }
    })
    .await;
    let say = |body: &'static [u8]| ask(&lane, Service::Application, LONG, body);
    assert_eq!(say(b"drop").await, Err(LaneError::Unanswered));
    assert_eq!(say(b"busy").await, Err(LaneError::PeerOverloaded));
    assert_eq!(say(b"long").await, Err(LaneError::ReplyLost));
    assert_eq!(say(b"panic").await, Err(LaneError::Unanswered));
    let soon = Duration::from_millis(20);
    let late = ask(&lane, Service::Application, soon, b"never").await;
    assert_eq!(late, Err(LaneError::Timeout));
    let nobody = ask(&lane, Service::Handover, LONG, b"").await;
    assert_eq!(nobody, Err(LaneError::NotServed));
    assert!(lane.lock().waiting.is_empty());
}

#[tokio::test]
async fn a_short_deadline_behind_a_long_one_is_kept() {
    let lane = pair(|batch: &mut Vec<Incoming>| batch.drain(..).for_each(std::mem::forget)).await;
    let begun = Instant::now();
    let (long, short) = tokio::join!(
        ask(&lane, Service::Application, Duration::from_millis(400), b"long"),
        ask(&lane, Service::Application, Duration::from_millis(30), b"short"),
    );
    assert_eq!((long, short), (Err(LaneError::Timeout), Err(LaneError::Timeout)));
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_lane_that_ends_tells_everybody_once_and_takes_no_more() {
    let lane = pair(|batch: &mut Vec<Incoming>| batch.drain(..).for_each(std::mem::forget)).await;
    let told = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        let told = Arc::clone(&told);
        let done = move |outcome: Result<Bytes, LaneError>| {
            assert_eq!(outcome, Err(LaneError::Lost { maybe_delivered: true }));
            told.fetch_add(1, Ordering::Relaxed);
        };
        let sent =
            lane.request(Service::Application, Deadline::after(LONG), &mut |_| {}, Done::Run(Box::new(done)));
        assert!(sent.is_ok());
    }
    lane.close();
    assert_eq!(told.load(Ordering::Relaxed), 100);
    assert_eq!(ask(&lane, Service::Application, LONG, b"").await, Err(SendError::NoSession.into()));
    lane.close();
    assert_eq!(told.load(Ordering::Relaxed), 100);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_bounded_memory() {
    // Nobody runs the other end: as if its process were frozen.
    let (ours, _theirs) = sockets().await;
    let lane = lane(ours, 500, DATA_LEN_MAX);
    let (it, all) = (Arc::clone(&lane), All(Arc::new(echo)));
    tokio::spawn(async move { run(&all, &it).await });
    let mut taken = 0;
    while lane
        .request(
            Service::Application,
            Deadline::after(LONG),
            &mut |b| b.put_bytes(0, 1000),
            Done::Run(Box::new(|_| {})),
        )
        .is_ok()
    {
        taken += 1;
    }
    assert_eq!(taken, 500);
    // As many replies as it likes to owe take no more than their window.
    for id in 0..40 {
        ReplyTo::reply(&*lane, id, &mut |buffer| buffer.put_bytes(0, 1 << 20));
    }
    assert!(lane.lock().buffer.len() < DATA_LEN_MAX + (2 << 20));
}

#[tokio::test]
async fn an_encoder_that_panics_leaves_nothing_behind() {
    let lane = pair(echo).await;
    let panicking = catch_unwind(AssertUnwindSafe(|| {
        let encode = &mut |buffer: &mut BytesMut| {
            buffer.put_slice(b"half of it");
            panic!("an encoder's")
        };
        lane.request(Service::Application, Deadline::after(LONG), encode, Done::Run(Box::new(|_| {})))
    }));
    assert!(panicking.is_err());
    assert_eq!(ask(&lane, Service::Application, LONG, b"after").await.unwrap(), "after");
}

/// Feeds bytes to a lane, and returns why it ended.
async fn feed(bytes: &[u8]) -> DownReason {
    let (ours, mut theirs) = sockets().await;
    let lane = lane(ours, 100, DATA_LEN_MAX);
    let all = All(Arc::new(echo));
    let feeding = async {
        // The lane may end before it has read everything.
        drop(theirs.write_all(bytes).await);
        theirs.shut_writing();
        let mut answer = Vec::new();
        drop(theirs.read_to_end(&mut answer).await);
    };
    let ending = async {
        let reason = run(&all, &lane).await;
        lane.close();
        reason
    };
    tokio::join!(ending, feeding).0
}

#[tokio::test]
async fn broken_frames_end_the_lane_with_the_reason() {
    let frame = |kind: u8, rest: &[u8]| {
        let len = u32::try_from(9 + rest.len()).unwrap();
        [&len.to_le_bytes()[..], &[kind], &7_u64.to_le_bytes(), rest].concat()
    };
    let broken = |why: &str| DownReason::Broken(why.to_owned());
    assert_eq!(feed(&frame(9, b"")).await, broken("an unknown kind of frame: 9"));
    assert_eq!(feed(&frame(REQUEST, b"xy")).await, broken("a truncated request"));
    assert_eq!(feed(&frame(FAILURE, b"")).await, broken("an unknown failure"));
    assert_eq!(feed(&u32::MAX.to_le_bytes()).await, broken(&format!("a frame of {} bytes", u32::MAX)));
    assert_eq!(feed(&[0; 4]).await, broken("a frame of 0 bytes"));
    // A reply that nobody waits for, and half a frame, are no offence.
    assert_eq!(feed(&frame(REPLY, b"late")).await, DownReason::Closed);
    assert_eq!(feed(&frame(REPLY, b"late")[..8]).await, DownReason::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_never_panic(
        frames in proptest::collection::vec((0_u8..5, proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = Vec::new();
        for (kind, rest) in frames {
            bytes.extend_from_slice(&(9 + rest.len() as u32).to_le_bytes());
            bytes.push(kind);
            bytes.extend_from_slice(&1_u64.to_le_bytes());
            bytes.extend_from_slice(&rest);
        }
        bytes.extend_from_slice(&tail);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(feed(&bytes));
    }
}
