//! Calls other nodes: does what the law of dialling says, and speaks the dialler's part of the preface.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tumen_core::cluster::greeting::Refusal;
use tumen_core::cluster::transport::Connection;
use tumen_core::cluster::transport::dialling::{Dial, Target};
use tumen_core::ids::NodeName;

use super::network::{Admission, Holder, Network};
use super::preface::{
    Decision, Introduction, Lane, Opening, PrefaceError, Proofs, Role, Verdict, draw_secret, read,
};
use super::socket::Socket;
use super::{Event, Probe};

/// Dials whoever is to be dialled, until this future is dropped.
pub(super) async fn run(network: &Arc<Network>) {
    loop {
        let (dials, next) = {
            let mut dialling = network.dialling();
            (dialling.plan_dials(network.now()), dialling.next_due())
        };
        for dial in dials {
            tokio::spawn(dial_one(Arc::clone(network), dial));
        }
        let woken = network.dial_wake.notified();
        match next {
            Some(due) => drop(tokio::time::timeout_at(network.instant(due), woken).await),
            None => woken.await,
        }
    }
}

/// Connects; on failure tells what was found.
pub(super) async fn connect(address: &str, within: Duration) -> Result<TcpStream, Probe> {
    match tokio::time::timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Probe::Refused),
        Ok(Err(_)) | Err(_) => Err(Probe::Silent),
    }
}

async fn dial_one(network: Arc<Network>, dial: Dial) {
    let dialling = async {
        let stream = connect(&dial.address, network.settings.dial_within).await?;
        let speaking = speak(&network, stream, &dial.address);
        match tokio::time::timeout(network.settings.preface_within, speaking).await {
            Ok(outcome) => Ok(outcome),
            Err(_) => Err(Probe::Accepted),
        }
    };
    let outcome = tokio::select! {
        outcome = dialling => outcome,
        () = network.stopping.cancelled() => return,
    };
    let now = network.now();
    match outcome {
        Ok(Ok(node)) => network.dialling().handle_met(now, &dial.target, &node),
        Ok(Err(PrefaceError::Refused { refusal, by_us })) => {
            if refusal == Refusal::Itself {
                network.dialling().handle_itself(&dial.target);
            } else {
                network.dialling().handle_failed(now, &dial.target);
            }
            network.tell(Event::Refused { address: dial.address, refusal, by_us });
        }
        Ok(Err(error)) => {
            tracing::debug!(address = dial.address, %error, "a dial came to nothing");
            handle_failed(&network, dial, Probe::Accepted);
        }
        Err(probe) => handle_failed(&network, dial, probe),
    }
    network.dial_wake.notify_one();
}

fn handle_failed(network: &Network, dial: Dial, probe: Probe) {
    let attempt = network.dialling().handle_failed(network.now(), &dial.target);
    let node = match dial.target {
        Target::Seed(_) => None,
        Target::Node(node) => Some(node),
    };
    network.tell(Event::DialFailed { address: dial.address, node, probe, attempt });
}

/// The dialler's part of the preface. Returns who is there, if it is a peer now or was one before.
async fn speak(network: &Arc<Network>, stream: TcpStream, address: &str) -> Result<NodeName, PrefaceError> {
    let mut socket = Socket::new(stream)?;
    let greeting = Box::new((network.greet)());
    let nonce = draw_secret();
    let opening = Opening { protocol: greeting.protocol, lane: Lane::Control, pass: 0, secret: nonce };
    opening.write(&mut socket).await?;
    let theirs = Opening::read(&mut socket).await?;
    if theirs.protocol != greeting.protocol {
        // Both sides have seen both versions, and can read no more of each other.
        let refusal = Refusal::Protocol { ours: theirs.protocol, theirs: greeting.protocol };
        return Err(PrefaceError::Refused { refusal, by_us: false });
    }
    let proofs = Proofs::new(&network.cookie, &nonce, &theirs.secret);
    let number = network.draw_connection();
    proofs.say(&mut socket, Role::Dialler, &Introduction { number, greeting: greeting.clone() }).await?;

    let (body, proven) = proofs.hear(&mut socket, Role::Acceptor).await?;
    let (peer, current) = match read(&body)? {
        Verdict::Refused(refusal) => return Err(PrefaceError::Refused { refusal, by_us: false }),
        // It lets in whoever calls, without knowing the cookie itself.
        Verdict::Welcome { .. } if !proven => {
            return Err(PrefaceError::Refused { refusal: Refusal::Cookie, by_us: true });
        }
        Verdict::Welcome { greeting, current } => (greeting, current),
    };
    let judged = match greeting.judge(&peer) {
        Ok(()) => network.clear(&peer.info.id).await,
        refused => refused,
    };
    if let Err(refusal) = judged {
        proofs.say(&mut socket, Role::Dialler, &Decision::Refused(refusal.clone())).await?;
        socket.shut_writing();
        return Err(PrefaceError::Refused { refusal, by_us: true });
    }
    let node = peer.info.id.node.clone();
    let connection = Connection { dialler: network.local.node.clone(), id: number };
    if let Holder::Itself(held) = network.holder(&peer.info.id) {
        let both_hold = current.as_ref() == Some(&held.connection);
        if both_hold || !connection.outranks(&held.connection) {
            proofs.say(&mut socket, Role::Dialler, &Decision::Already).await?;
            socket.shut_writing();
            return Ok(node);
        }
    }
    proofs.say(&mut socket, Role::Dialler, &Decision::Peers).await?;
    let key = proofs.session_key();
    let dialled = Some(address.to_owned());
    let closing = socket.clone();
    if !network.admit(Admission { socket, greeting: peer, connection, key, dialled }, None) {
        closing.shut();
    }
    Ok(node)
}
