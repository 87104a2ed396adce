//! `ractor_cluster` as its own documentation uses it: a node in each process, one remotable actor, `call` with a timeout.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{
    IncomingEncryptionMode, NetworkStream, NodeServer, NodeServerMessage, RactorClusterMessage,
    client_connect,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::child::{Order, rest};
use super::load::Caller;

/// How long a call waits for its reply.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// How long the other process's actor may take to become known.
const FOUND_WITHIN: Duration = Duration::from_secs(20);
/// The group that the actor is found by.
const GROUP: &str = "echoes";

/// What the actor takes.
#[derive(RactorClusterMessage)]
enum EchoMsg {
    /// Some bytes, which come back as they are.
    #[rpc]
    Echo(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

struct EchoActor;

impl Actor for EchoActor {
    type Msg = EchoMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<EchoMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        ractor::pg::join(GROUP.to_owned(), vec![myself.get_cell()]);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<EchoMsg>,
        message: EchoMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let EchoMsg::Echo(body, reply) = message;
        Ok(reply.send(body)?)
    }
}

/// Runs the actor, and takes in whoever dials.
pub(super) async fn echo(orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let (_actor, _) = Actor::spawn(None, EchoActor, ()).await.map_err(|why| why.to_string())?;
    let (_server, address) = listening("echo").await?;
    rest(&address, orders).await
}

/// A node that takes in whoever dials, and where that is.
pub(in crate::bench) async fn listening(name: &str) -> Result<(ActorRef<NodeServerMessage>, String), String> {
    let server = server(name).await?;
    let takes_in = server.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|why| why.to_string())?;
    let address = listener.local_addr().map_err(|why| why.to_string())?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            if let Ok(stream) = opened(stream, peer) {
                let message =
                    NodeServerMessage::ConnectionOpened { stream: Box::new(stream), is_server: true };
                drop(takes_in.cast(message));
            }
        }
    });
    Ok((server, address))
}

fn opened(stream: TcpStream, peer_addr: SocketAddr) -> std::io::Result<NetworkStream> {
    stream.set_nodelay(true)?;
    let local_addr = stream.local_addr()?;
    Ok(NetworkStream::Raw { peer_addr, local_addr, stream })
}

/// `ractor_cluster`'s node of this process. Its own listener is told to nobody; connections are accepted and dialled here.
pub(in crate::bench) async fn server(name: &str) -> Result<ActorRef<NodeServerMessage>, String> {
    let (name, cookie) = (name.to_owned(), "bench".to_owned());
    let mode = (Some(IncomingEncryptionMode::Raw), Some(NodeConnectionMode::Isolated));
    let server = NodeServer::new(0, cookie, name, "localhost".to_owned(), mode.0, mode.1)
        .with_listen_addr(std::net::Ipv4Addr::LOCALHOST.into());
    let (server, _) = Actor::spawn(None, server, ()).await.map_err(|why| why.to_string())?;
    Ok(server)
}

/// The calling end.
#[derive(Clone)]
pub(super) struct Client {
    echo: ActorRef<EchoMsg>,
    _server: ActorRef<NodeServerMessage>,
}

impl Client {
    pub(super) async fn connect(to: &str) -> Result<Self, String> {
        let server = server("caller").await?;
        client_connect(&server, to).await.map_err(|why| why.to_string())?;
        let begun = Instant::now();
        loop {
            if let Some(cell) = ractor::pg::get_members(&GROUP.to_owned()).into_iter().next() {
                return Ok(Self { echo: cell.into(), _server: server });
            }
            if begun.elapsed() > FOUND_WITHIN {
                return Err("the other node's actor is not told of".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Caller for Client {
    async fn call(&self, number: u64) -> Result<(), String> {
        let mut body = vec![7; 64];
        body[..8].copy_from_slice(&number.to_le_bytes());
        let sent = body.clone();
        match self.echo.call(|reply| EchoMsg::Echo(sent, reply), Some(CALL_WITHIN)).await {
            Ok(CallResult::Success(echo)) if echo == body => Ok(()),
            Ok(CallResult::Success(_)) => Err("another reply".into()),
            Ok(CallResult::Timeout) => Err("no reply in time".into()),
            Ok(CallResult::SenderError) => Err("the reply was dropped".into()),
            Err(why) => Err(why.to_string()),
        }
    }
}
