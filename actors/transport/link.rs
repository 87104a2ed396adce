//! One session, from the moment that two nodes have decided for it: its sockets, its lanes, and its end.
//!
//! ```text
//!  admitted ─predecessor gone─▶ control lane opens ─▶ data lane opens with a pass ─▶ up ─▶ closing ─▶ gone
//!                                                     dialler: then says Ready
//!                                                     acceptor: is up when it hears Ready
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ractor::{ActorCell, ActorRef};
use ractor_cluster::NodeSessionMessage;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tumen_core::cluster::greeting::Greeting;
use tumen_core::cluster::transport::{Connection, Silence};

use super::control_lane::{self, System};
use super::data_lane::{self, DataLane};
use super::network::Network;
use super::outbox::{Outbox, SYSTEM};
use super::preface::{Lane, Secret};
use super::socket::Socket;
use super::{DownReason, LaneError, Session};
use crate::codec;

/// The pass that opens the data lane; those for copies have numbers from 1.
pub(super) const DATA_ASK: u64 = 0;

/// What a peer answers to the question for a pass: its number and token, or nothing if it takes no more.
pub(super) type Pass = Option<(u64, Secret)>;

pub(super) struct Link {
    pub(super) session: Session,
    pub(super) connection: Connection,
    pub(super) greeting: Box<Greeting>,
    pub(super) key: Secret,
    /// Where the peer was dialled; `None` if the peer dialled.
    pub(super) dialled: Option<String>,
    pub(super) socket: Socket,
    pub(super) outbox: Outbox,
    pub(super) lane: OnceLock<Arc<DataLane>>,
    /// Every other connection of this session.
    others: Mutex<Vec<Socket>>,
    /// Passes that were asked for.
    asked: Mutex<BTreeMap<u64, oneshot::Sender<Pass>>>,
    asks: AtomicU64,
    /// How many copies come in.
    pub(super) copies: AtomicUsize,
    /// ractor's actor for this session, once there is one; and whether it is no more.
    pub(super) actor: OnceLock<ActorRef<NodeSessionMessage>>,
    pub(super) actor_gone: CancellationToken,
    /// The way to the peer's gateway, once it is known.
    pub(super) gateway: OnceLock<ActorCell>,
    pub(super) gateway_found: CancellationToken,
    /// Both lanes are ready, and the subscriber knows.
    pub(super) up: CancellationToken,
    reason: OnceLock<DownReason>,
    pub(super) closing: CancellationToken,
    pub(super) gone: CancellationToken,
}

impl Link {
    pub(super) fn new(
        session: Session,
        connection: Connection,
        greeting: Box<Greeting>,
        key: Secret,
        dialled: Option<String>,
        socket: Socket,
        window: usize,
    ) -> Self {
        Self {
            session,
            outbox: Outbox::new(connection.id, window),
            connection,
            greeting,
            key,
            dialled,
            socket,
            lane: OnceLock::new(),
            others: Mutex::default(),
            asked: Mutex::default(),
            asks: AtomicU64::new(DATA_ASK),
            copies: AtomicUsize::new(0),
            actor: OnceLock::new(),
            actor_gone: CancellationToken::new(),
            gateway: OnceLock::new(),
            gateway_found: CancellationToken::new(),
            up: CancellationToken::new(),
            reason: OnceLock::new(),
            closing: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// What ractor calls this session: unlike any other, past or present.
    pub(super) fn label(&self) -> String {
        format!("{} session {} ({:x})", self.session.peer, self.session.number, self.connection.id)
    }

    /// Ends the session; the first reason counts. What follows is done by [`run`].
    pub(super) fn close(&self, reason: DownReason) {
        // A second reason is a consequence of the first.
        drop(self.reason.set(reason));
        self.closing.cancel();
    }

    pub(super) fn reason(&self) -> DownReason {
        self.reason.get().cloned().unwrap_or(DownReason::Closed)
    }

    /// Takes a further connection of this session, which is shut when the session ends.
    pub(super) fn adopt(&self, socket: &Socket) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(Socket::in_use);
        others.push(socket.clone());
        drop(others);
        if self.closing.is_cancelled() {
            socket.shut();
        }
    }

    /// How often anything was heard from the peer.
    pub(super) fn heard(&self) -> u64 {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        self.socket.heard() + others.iter().map(Socket::heard).sum::<u64>()
    }

    pub(super) fn say(&self, what: &System) {
        // The transport's own messages need no credit.
        let _ = self.outbox.push(SYSTEM, &codec::encode(what));
    }

    /// Asks the peer for a pass, and waits for it.
    pub(super) async fn ask_pass(&self, within: Duration) -> Result<(u64, Secret), LaneError> {
        let ask = self.asks.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.expect_pass(ask);
        self.say(&System::Ask { ask });
        let answer = tokio::time::timeout(within, answer).await;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
        match answer {
            Ok(Ok(Some(pass))) => Ok(pass),
            Ok(Ok(None)) => Err(LaneError::PeerOverloaded),
            Ok(Err(_)) => Err(LaneError::Lost { maybe_delivered: false }),
            Err(_) => Err(LaneError::Timeout),
        }
    }

    fn expect_pass(&self, ask: u64) -> oneshot::Receiver<Pass> {
        let (answer, pass) = oneshot::channel();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(ask, answer);
        pass
    }

    /// Hears the answer to a question for a pass.
    pub(super) fn handle_pass(&self, ask: u64, pass: Pass) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
        if let Some(asked) = asked {
            // Whoever asked may have given up.
            let _ = asked.send(pass);
        }
    }
}

/// Lives one session from beginning to end.
pub(super) async fn run(network: Arc<Network>, link: Arc<Link>, predecessor: Option<Arc<Link>>) {
    // A ghost of this session's predecessor would take part in ractor's election, and might win it; and its end is to
    // be told before this one's beginning.
    if let Some(predecessor) = predecessor {
        predecessor.gone.cancelled().await;
    }
    let given = !link.closing.is_cancelled() && control_lane::give(&network, &link);
    if given {
        let opening = tokio::time::timeout(network.settings.preface_within, open(&network, &link));
        tokio::select! {
            opened = opening => if opened.is_err() {
                link.close(DownReason::Broken("its lanes did not open in time".to_owned()));
            },
            () = link.closing.cancelled() => {}
        }
        tokio::select! {
            biased;
            () = link.closing.cancelled() => {}
            () = live(&network, &link) => {}
        }
    }
    end(&network, &link, given).await;
}

/// Opens both lanes, and returns when the session is up.
async fn open(network: &Arc<Network>, link: &Arc<Link>) {
    let data_pass = link.dialled.is_some().then(|| link.expect_pass(DATA_ASK));
    link.gateway_found.cancelled().await;
    tokio::spawn(control_lane::send(Arc::clone(link)));
    match data_pass {
        Some(pass) => {
            let Ok(Some((pass, token))) = pass.await else {
                return link.close(DownReason::Broken("no pass for the data lane".to_owned()));
            };
            match network.dial_lane(link, Lane::Data, pass, &token).await {
                Ok(socket) => network.attach(link, socket),
                Err(error) => return link.close(DownReason::Broken(format!("no data lane: {error}"))),
            }
            network.control().up(link);
            link.say(&System::Ready);
        }
        None => {
            let (pass, token) = network.issue_pass(link, Lane::Data);
            link.say(&System::Pass { ask: DATA_ASK, pass: Some((pass, token)) });
        }
    }
    link.up.cancelled().await;
}

/// Runs both lanes until one of them ends, or nothing is heard.
async fn live(network: &Arc<Network>, link: &Arc<Link>) {
    let Some(lane) = link.lane.get() else { return };
    let reason = tokio::select! {
        reason = data_lane::run(&**network, lane) => reason,
        () = beat(network, link) => DownReason::Silence,
    };
    link.close(reason);
}

/// Says something every heartbeat; returns when nothing was heard for too many of them.
async fn beat(network: &Network, link: &Link) {
    let every = network.settings.heartbeat_every;
    let mut silence = Silence::new(network.settings.silent_after, every);
    let mut beats = tokio::time::interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = link.heard();
    loop {
        beats.tick().await;
        link.outbox.beat();
        let now = link.heard();
        if now != heard {
            silence.handle_heard();
            heard = now;
        }
        if silence.handle_beat() {
            return;
        }
    }
}

async fn end(network: &Arc<Network>, link: &Arc<Link>, given: bool) {
    network.handle_closing(link);
    link.socket.shut();
    for socket in std::mem::take(&mut *link.others.lock().unwrap_or_else(PoisonError::into_inner)) {
        socket.shut();
    }
    link.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    if let Some(lane) = link.lane.get() {
        lane.close();
    }
    if given && tokio::time::timeout(Duration::from_secs(2), link.actor_gone.cancelled()).await.is_err() {
        tracing::warn!(session = %link.label(), "ractor's session did not end by itself: it is killed");
        if let Some(actor) = link.actor.get() {
            actor.kill();
        }
    }
    network.handle_gone(link);
    network.control().down(link);
    link.gone.cancel();
}
