//! One node of tumen's in `bench pubsub`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tumen_core::cluster::topics::Overflow;

use super::{Ear, Ears, SUBSCRIBERS, timed};
use crate::bench::calls::child::{Order, answer};
use crate::node::{Heard, Node, Topic, TopicSubscription};
use crate::worker::Message;

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Subscribers are to lose nothing in a turn.
const QUEUE_LEN: usize = 1 << 20;
const ALL: usize = 2 * SUBSCRIBERS;

#[derive(Serialize, Deserialize)]
struct Say {
    text: String,
}

impl Message for Say {
    type Reply = String;
}

struct Member;

enum MemberMsg {
    Say(String, RpcReplyPort<String>),
}

impl ractor::Message for MemberMsg {}

impl Actor for Member {
    type Msg = MemberMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<MemberMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<MemberMsg>,
        MemberMsg::Say(text, reply): MemberMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(reply.send(text)?)
    }
}

fn text(number: u64) -> String {
    format!("{number:064}")
}

/// Founds a cluster and publishes, or joins the node at `to` and listens.
pub(in crate::bench) async fn obey(
    to: Option<String>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    let told = |why: crate::Error| why.to_string();
    let listens = to.is_some();
    let name = to.as_ref().map_or_else(|| "node-1".to_owned(), |_| format!("node-{}", std::process::id()));
    let builder = Node::builder("bench", name).listen("127.0.0.1:0").partitions(1);
    let builder = match to {
        Some(to) => builder.join([to]),
        None => builder,
    };
    let node = builder.start().await.map_err(told)?;
    let (topic, group) =
        (node.topic::<String>("bench").map_err(told)?, node.group::<Say>("bench").map_err(told)?);
    let ears = Ears::new();
    let mut members = Vec::new();
    if listens {
        for ear in ears.each() {
            let heard = topic.subscribe_with(QUEUE_LEN, Overflow::DropOldest);
            tokio::spawn(listen(heard, Arc::clone(ear)));
            let (member, _) = Actor::spawn(None, Member, ()).await.map_err(|why| why.to_string())?;
            let hosted = node.host(&member, |Say { text }, reply| MemberMsg::Say(text, reply));
            group.join(&hosted).map_err(told)?;
            members.push((member, hosted));
        }
    }
    answer(&Ok(node.address()))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&connected(&node, listens).await)?,
            Order::Publish { count } => answer(&publish(&topic, count).await)?,
            Order::AwaitHeard { count } => answer(&ears.have_heard(count).await)?,
            Order::AskAll { count } => {
                let ask = async |number| {
                    let gathered = group.ask(Say { text: text(number) }).await.map_err(told)?;
                    let right = gathered.replies.iter().filter(|(_, said)| *said == text(number)).count();
                    if right == ALL {
                        Ok(())
                    } else {
                        Err(format!("{right} of {ALL} answered: {gathered:?}"))
                    }
                };
                answer(&timed(count, ask).await)?;
            }
            Order::Confirm { count } => {
                let confirm = async |number| {
                    let confirmed = topic.publish_confirmed(&text(number), WITHIN).await.map_err(told)?;
                    if confirmed.remote == ALL { Ok(()) } else { Err(format!("{confirmed:?}")) }
                };
                answer(&timed(count, confirm).await)?;
            }
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

async fn listen(mut heard: TopicSubscription<String>, ear: Arc<Ear>) {
    while let Some(news) = heard.next().await {
        match news {
            Heard::Said { .. } => ear.heard.fetch_add(1, Ordering::Relaxed),
            Heard::Lagged(count) | Heard::Missed { count, .. } => {
                ear.lost.fetch_add(count, Ordering::Relaxed)
            }
            Heard::Unreadable { .. } => ear.lost.fetch_add(1, Ordering::Relaxed),
        };
    }
}

async fn publish(topic: &Topic<String>, count: u64) -> Result<(), String> {
    let value = text(7);
    for _ in 0..count {
        let published = topic.publish(&value).await.map_err(|why| why.to_string())?;
        if published.remote != ALL {
            return Err(format!("{published:?}"));
        }
    }
    Ok(())
}

async fn connected(node: &Node, listens: bool) -> Result<(), String> {
    node.ready().await.map_err(|why| why.to_string())?;
    let begun = Instant::now();
    let whole = || {
        let subscribers: u32 = node.topics().iter().flat_map(|it| &it.remote).map(|(_, count)| count).sum();
        let members: usize = node.groups().iter().map(|group| group.all).sum();
        listens || (subscribers as usize, members) == (ALL, ALL)
    };
    while !whole() {
        if begun.elapsed() > WITHIN {
            return Err("not all subscribers and members are known".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
