//! The process groups of `ractor_cluster` in `bench pubsub`: a message is sent to each member that the group has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::{RactorClusterMessage, client_connect};
use tokio::sync::mpsc;

use super::{Ear, Ears, SUBSCRIBERS, timed};
use crate::bench::calls::child::{Order, answer};
use crate::bench::calls::plain;

const GROUP: &str = "listeners";
const WITHIN: Duration = Duration::from_secs(20);
const ALL: usize = 2 * SUBSCRIBERS;

/// What a member takes.
#[derive(RactorClusterMessage)]
enum MemberMsg {
    /// Some bytes.
    Say(Vec<u8>),
    /// Some bytes, which come back as they are.
    #[rpc]
    Ask(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

struct Member {
    ear: Arc<Ear>,
}

impl Actor for Member {
    type Msg = MemberMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<MemberMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        ractor::pg::join(GROUP.to_owned(), vec![myself.get_cell()]);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<MemberMsg>,
        message: MemberMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            MemberMsg::Say(_) => {
                self.ear.heard.fetch_add(1, Ordering::Relaxed);
            }
            MemberMsg::Ask(body, reply) => reply.send(body)?,
        }
        Ok(())
    }
}

/// Members of the group, and whoever dials is taken in.
pub(in crate::bench) async fn listen(mut orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let (server, address) = plain::listening(&format!("listener-{}", std::process::id())).await?;
    let ears = Ears::new();
    let mut members = Vec::new();
    for ear in ears.each() {
        let member = Member { ear: Arc::clone(ear) };
        members.push(Actor::spawn(None, member, ()).await.map_err(|why| why.to_string())?);
    }
    answer(&Ok(address))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&Ok(()))?,
            Order::AwaitHeard { count } => answer(&ears.have_heard(count).await)?,
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    drop(server);
    Ok(())
}

fn members() -> Vec<ActorRef<MemberMsg>> {
    ractor::pg::get_members(&GROUP.to_owned()).into_iter().map(Into::into).collect()
}

/// Says and asks what it is told.
pub(in crate::bench) async fn publish(
    to: &str,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    let server = plain::server("publisher").await?;
    for address in to.split(',') {
        client_connect(&server, address).await.map_err(|why| why.to_string())?;
    }
    answer(&Ok("ready"))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&connected().await)?,
            Order::Publish { count } => answer(&say(count).await)?,
            Order::AskAll { count } => answer(&timed(count, async |number| ask(number).await).await)?,
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

async fn connected() -> Result<(), String> {
    let begun = Instant::now();
    while members().len() < ALL {
        if begun.elapsed() > WITHIN {
            return Err("not all members are known".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn say(count: u64) -> Result<(), String> {
    for _ in 0..count {
        for member in members() {
            member.cast(MemberMsg::Say(vec![b'7'; 64])).map_err(|why| why.to_string())?;
        }
        // Its connection is written to by others on this thread.
        tokio::task::coop::consume_budget().await;
    }
    Ok(())
}

async fn ask(number: u64) -> Result<(), String> {
    let mut body = vec![b'7'; 64];
    body[..8].copy_from_slice(&number.to_le_bytes());
    let members = members();
    let asked = members.iter().map(|member| {
        let body = body.clone();
        member.call(|reply| MemberMsg::Ask(body, reply), Some(WITHIN))
    });
    let answered = join_all(asked).await;
    let right =
        answered.iter().filter(|it| matches!(it, Ok(CallResult::Success(echo)) if *echo == body)).count();
    if right == ALL { Ok(()) } else { Err(format!("{right} of {ALL} answered")) }
}
