//! Takes calls: gives every stranger a few seconds to say who it is, and few of them at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tumen_core::cluster::greeting::Refusal;
use tumen_core::cluster::transport::Connection;
use tumen_core::ids::NodeBoot;

use super::link::Link;
use super::network::{Admission, Holder, Network};
use super::preface::{
    Decision, Introduction, Lane, Opening, PrefaceError, Proofs, Role, Verdict, draw_secret, read,
};
use super::socket::Socket;
use super::{Event, bulk};

/// What the accepting side of a further connection says once it has taken it.
const WELCOME: u8 = 1;
/// How long a peer that was not understood is left alone by the log.
const GRUMBLE_EVERY: Duration = Duration::from_secs(10);
/// How many refusals of callers the subscriber is told of in a second: a stranger can call as often as it likes.
const TOLD_MAX: u32 = 32;
/// How many peers the log remembers.
const GRUMBLES_MAX: usize = 256;
/// How long a name is observed before a sign of life counts: a process that was killed a moment ago leaves bytes
/// behind, but its connections end.
const GHOST_WAIT: Duration = Duration::from_millis(50);

/// Accepts connections until this future is dropped.
pub(super) async fn accept(network: &Arc<Network>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(network.settings.strangers_max));
    // Those who are turned away may linger a little, or they would not read why: as many again, and no more.
    let turned_away = Arc::new(Semaphore::new(network.settings.strangers_max));
    let grumbles = Arc::new(Grumbles::default());
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptors left, most likely. It passes, or the operator reads of it.
                grumbles.grumble(IpAddr::from([0, 0, 0, 0]), &format!("cannot accept: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (network, grumbles) = (Arc::clone(network), Arc::clone(&grumbles));
        match Arc::clone(&strangers).try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(async move {
                let within = network.settings.preface_within;
                let caller = stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |at| at.to_string());
                let met = tokio::select! {
                    met = tokio::time::timeout(within, meet(&network, stream, place)) => met,
                    () = network.stopping.cancelled() => return,
                };
                let error = match met {
                    Ok(Ok(())) => return,
                    Ok(Err(PrefaceError::Refused { refusal, by_us })) => {
                        if by_us {
                            network.counts.refused.fetch_add(1, Ordering::Relaxed);
                        }
                        if grumbles.may_tell() {
                            network.tell(Event::Refused { address: caller, refusal, by_us });
                        }
                        return;
                    }
                    // A probe connects and says nothing. That is no offence, nor is a caller that went away.
                    Ok(Err(PrefaceError::Io(_))) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("it did not say who it is within {within:?}"),
                };
                network.counts.hostile.fetch_add(1, Ordering::Relaxed);
                grumbles.grumble(address.ip(), &error);
            })),
            Err(_) => {
                network.counts.refused.fetch_add(1, Ordering::Relaxed);
                grumbles.grumble(address.ip(), "too many connections wait to be known");
                if let Ok(place) = Arc::clone(&turned_away).try_acquire_owned() {
                    drop(tokio::spawn(turn_away(network, stream, Refusal::Busy, place)));
                }
            }
        }
    }
}

/// Tells a caller why it is not taken, before it is known.
async fn turn_away(network: Arc<Network>, stream: TcpStream, refusal: Refusal, place: OwnedSemaphorePermit) {
    let telling = async {
        let mut socket = Socket::new(stream)?;
        let protocol = (network.greet)().protocol;
        let opening = Opening { protocol, lane: Lane::Control, pass: 0, secret: draw_secret() };
        opening.write(&mut socket).await?;
        let proofs = Proofs::new(&network.cookie, &[0; 32], &opening.secret);
        proofs.say(&mut socket, Role::Acceptor, &Verdict::Refused(refusal)).await?;
        linger(socket).await;
        Ok::<(), PrefaceError>(())
    };
    // It was turned away in any case.
    drop(tokio::time::timeout(Duration::from_secs(1), telling).await);
    drop(place);
}

/// Closes so that the peer reads what was written: bytes of its own that nobody reads would make it a reset.
async fn linger(mut socket: Socket) {
    socket.shut_writing();
    let mut rest = [0; 4096];
    for _ in 0..32 {
        match socket.read(&mut rest).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// The acceptor's part of the preface.
async fn meet(
    network: &Arc<Network>,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
) -> Result<(), PrefaceError> {
    let mut socket = Socket::new(stream)?;
    let opening = Opening::read(&mut socket).await?;
    match opening.lane {
        Lane::Control => meet_peer(network, socket, &opening).await,
        Lane::Data | Lane::Bulk => {
            let Some(link) = network.take_pass(&opening) else {
                return Err(PrefaceError::Hostile("a connection without a pass".to_owned()));
            };
            // From here on it is known.
            drop(place);
            if opening.lane == Lane::Data {
                network.attach(&link, socket.clone());
                socket.write_all(&[WELCOME]).await?;
            } else {
                socket.write_all(&[WELCOME]).await?;
                tokio::spawn(bulk::receive(Arc::clone(network), link, socket));
            }
            Ok(())
        }
    }
}

/// Hears that a further connection was taken.
pub(super) async fn hear_welcome(socket: &mut Socket) -> Result<(), PrefaceError> {
    match socket.read_u8().await? {
        WELCOME => Ok(()),
        other => Err(PrefaceError::Hostile(format!("{other} instead of a welcome"))),
    }
}

async fn meet_peer(network: &Arc<Network>, mut socket: Socket, theirs: &Opening) -> Result<(), PrefaceError> {
    let greeting = Box::new((network.greet)());
    let nonce = draw_secret();
    let opening = Opening { protocol: greeting.protocol, lane: Lane::Control, pass: 0, secret: nonce };
    opening.write(&mut socket).await?;
    if theirs.protocol != greeting.protocol {
        let refusal = Refusal::Protocol { ours: greeting.protocol, theirs: theirs.protocol };
        linger(socket).await;
        return Err(PrefaceError::Refused { refusal, by_us: true });
    }
    let proofs = Proofs::new(&network.cookie, &theirs.secret, &nonce);
    let (body, proven) = proofs.hear(&mut socket, Role::Dialler).await?;
    if !proven {
        return refuse(&proofs, socket, Refusal::Cookie).await;
    }
    let Introduction { number, greeting: peer } = read(&body)?;
    let judged = match greeting.judge(&peer) {
        Ok(()) if network.stopping.is_cancelled() => Err(Refusal::Stopping),
        Ok(()) => network.clear(&peer.info.id).await,
        refused => refused,
    };
    if let Err(refusal) = judged {
        return refuse(&proofs, socket, refusal).await;
    }
    let current = match network.holder(&peer.info.id) {
        Holder::Itself(link) => Some(link.connection.clone()),
        Holder::Nobody | Holder::Another(_) => None,
    };
    let welcome = Verdict::Welcome { greeting, current: current.clone() };
    proofs.say(&mut socket, Role::Acceptor, &welcome).await?;

    let (body, proven) = proofs.hear(&mut socket, Role::Dialler).await?;
    if !proven {
        return Err(PrefaceError::Hostile("a decision without proof".to_owned()));
    }
    match read(&body)? {
        Decision::Already => Ok(()),
        Decision::Refused(refusal) => Err(PrefaceError::Refused { refusal, by_us: false }),
        Decision::Peers => {
            let connection = Connection { dialler: peer.info.id.node.clone(), id: number };
            let (key, closing) = (proofs.session_key(), socket.clone());
            let admission = Admission { socket, greeting: peer, connection, key, dialled: None };
            if !network.admit(admission, current.as_ref()) {
                closing.shut();
            }
            Ok(())
        }
    }
}

async fn refuse(proofs: &Proofs, mut socket: Socket, refusal: Refusal) -> Result<(), PrefaceError> {
    proofs.say(&mut socket, Role::Acceptor, &Verdict::Refused(refusal.clone())).await?;
    linger(socket).await;
    Err(PrefaceError::Refused { refusal, by_us: true })
}

impl Network {
    /// Whether `peer` may have its name here. If another run of it has a session, that one is observed for a while: if it
    /// shows life it keeps the name, and if it shows none its session ends by its own silence.
    pub(super) async fn clear(&self, peer: &NodeBoot) -> Result<(), Refusal> {
        loop {
            let Holder::Another(link) = self.holder(peer) else { return Ok(()) };
            tokio::select! {
                () = link.closing.cancelled() => {}
                () = lives(&link) => return Err(Refusal::NameTaken(peer.node.clone())),
            }
            // It gives back its name before it is gone.
            link.gone.cancelled().await;
        }
    }
}

/// Returns once the peer of this session has shown a new sign of life.
async fn lives(link: &Link) {
    tokio::time::sleep(GHOST_WAIT).await;
    let heard = link.heard();
    while link.heard() == heard {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Complains in the log of each peer now and then, and not every time.
#[derive(Default)]
struct Grumbles {
    last: Mutex<BTreeMap<IpAddr, (Instant, u64)>>,
    told: Mutex<Option<(Instant, u32)>>,
}

impl Grumbles {
    /// Whether the subscriber is to be told of one more refusal.
    fn may_tell(&self) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) =
            told.filter(|(since, _)| now - *since < Duration::from_secs(1)).unwrap_or((now, 0));
        *told = Some((since, count + 1));
        count < TOLD_MAX
    }

    fn grumble(&self, peer: IpAddr, why: &str) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= GRUMBLES_MAX && !last.contains_key(&peer) {
            last.retain(|_, (at, _)| now - *at < GRUMBLE_EVERY);
            if last.len() >= GRUMBLES_MAX {
                return;
            }
        }
        let (at, silent) = last.entry(peer).or_insert((now - GRUMBLE_EVERY, 0));
        if now - *at < GRUMBLE_EVERY {
            *silent += 1;
            return;
        }
        tracing::warn!(%peer, since_then = *silent, "a connection was closed: {why}");
        (*at, *silent) = (now, 0);
    }
}
