//! One node of `bench names` and `bench children`, which does as it is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tumen_core::cluster::snapshot::GroupPlan;
use tumen_core::names::{Holder, Name, directory_of};

use crate::bench::calls::child::{Order, answer};
use crate::bench::calls::load::each;
use crate::demo::millis;
use crate::names::echo::{Echo, Say};
use crate::node::Node;

/// How long one claim, or start, may take.
const WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// A cluster whose plan has not changed for so long is settled.
const SETTLED_AFTER: Duration = Duration::from_millis(300);
/// How many names whoever looks has at hand at once.
const AT_HAND: usize = 64;

#[derive(Clone)]
struct Client {
    node: Node,
    holder: Holder,
}

/// Founds a cluster, or joins the node at `to`, and obeys.
pub(in crate::bench) async fn obey(
    to: Option<String>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    let name = to.as_ref().map_or_else(|| "node-1".to_owned(), |_| format!("node-{}", std::process::id()));
    // Copies are made anew at once where one is lost: nodes are killed one after the other, and none of them returns.
    let builder = Node::builder("bench", name).listen("127.0.0.1:0").replication(3).echo();
    let builder = builder.rebuild_after(Duration::ZERO);
    let builder = match to {
        Some(to) => builder.join([to]),
        None => builder,
    };
    let node = builder.start().await.map_err(|why| why.to_string())?;
    let holder = node.names().host(|delivery| delivery.answer(Ok(Bytes::new())));
    let client = Client { node, holder };
    answer(&Ok(client.node.address()))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&client.node.ready().await.map_err(|why| why.to_string()))?,
            Order::Register { from, count, outstanding } => {
                let claim = |client: Client, number| async move { client.claim(number).await };
                answer(&each(&client, from..from + count, outstanding, claim).await)?;
            }
            Order::Start { from, count, outstanding } => {
                let start = |client: Client, number| async move { client.start(number).await };
                answer(&each(&client, from..from + count, outstanding, start).await)?;
            }
            Order::Await { names } => answer(&client.sees(names).await)?,
            Order::Whole { nodes } => answer(&client.is_whole(nodes).await)?,
            Order::LookUp { names, times } => answer(&client.look_up(names, times))?,
            Order::Where { child } => answer(&client.find(child).await)?,
            Order::Kill { process, from, count } => answer(&client.kill(process, from, count).await)?,
            Order::Move { child } => answer(&client.relocate(child).await)?,
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

fn name(number: u64) -> Name {
    Name::new(format!("user/{number:08}")).expect("short")
}

impl Client {
    async fn claim(&self, number: u64) -> Result<(), String> {
        let claimed = self.node.names().claim(self.holder.actor, &name(number), Bytes::new(), WITHIN).await;
        claimed.map(drop).map_err(|why| why.to_string())
    }

    async fn start(&self, number: u64) -> Result<(), String> {
        let started = self.node.start_child::<Echo>(name(number).as_bytes(), String::new()).await;
        started.map(drop).map_err(|why| why.to_string())
    }

    async fn sees(&self, names: usize) -> Result<(), String> {
        let begun = Instant::now();
        while self.node.names().table().len() < names {
            if begun.elapsed() > WITHIN {
                return Err(format!("{names} names are not seen within {WITHIN:?}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn is_whole(&self, nodes: usize) -> Result<(), String> {
        let begun = Instant::now();
        let whole = || {
            let Some(plan) = self.node.snapshot() else { return false };
            let serving = plan.members.iter().filter(|member| member.status.may_serve()).count();
            let has_all = |group: &GroupPlan| {
                let copies = nodes.min(group.spec.replication as usize);
                group.assignments.iter().all(|it| !group.spec.replicated || it.members.len() == copies)
            };
            serving == nodes && plan.groups.iter().all(has_all) && self.node.runtime().voting().len() == nodes
        };
        // Once it has all of them, primaries may still move to where they are wanted.
        let plan = || self.node.snapshot().map(|plan| (plan.version, plan.steps));
        let mut settled = (plan(), Instant::now());
        while !whole() || settled.1.elapsed() < SETTLED_AFTER {
            if settled.0 != plan() {
                settled = (plan(), Instant::now());
            }
            if begun.elapsed() > WITHIN {
                return Err(format!("the cluster has not all its copies within {WITHIN:?}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// How many nanoseconds a lookup takes, and one in a plain map of as many names beside it.
    fn look_up(&self, names: u64, times: u64) -> Result<(f64, f64), String> {
        let all: Vec<Name> = (0..names).map(name).collect();
        let plain: HashMap<&[u8], u64> = all.iter().map(Name::as_bytes).zip(0..).collect();
        let looked = timed(&all, times, |name| self.node.lookup(name.as_bytes()).is_some())?;
        Ok((looked, timed(&all, times, |name| plain.contains_key(name.as_bytes()))?))
    }

    /// On which node a child runs, once it does, and on which its directory's primary is.
    async fn find(&self, child: u64) -> Result<(String, String), String> {
        let begun = Instant::now();
        let found = loop {
            match self.node.names().lookup(&name(child)) {
                Some(found) => break found,
                None if begun.elapsed() < WITHIN => tokio::time::sleep(LOOK_EVERY).await,
                None => return Err(format!("child {child} does not run")),
            }
        };
        let plan = self.node.snapshot().ok_or("there is no plan")?;
        let (primary, _) =
            plan.primary_of(directory_of(&name(child))).ok_or("its directory has no primary")?;
        Ok((found.holder.node.node.to_string(), primary.node.to_string()))
    }

    /// Kills a process, and waits until the children that ran there answer elsewhere: how many there were, and after how many
    /// milliseconds the last one did.
    async fn kill(&self, process: u32, from: u64, count: u64) -> Result<(u64, f64), String> {
        let node = format!("node-{process}");
        let runs = |number: &u64| {
            let found = self.node.names().lookup(&name(*number));
            found.is_some_and(|found| found.holder.node.node.as_str() == node)
        };
        let there: Vec<u64> = (from..from + count).filter(runs).collect();
        let pid = rustix::process::Pid::from_raw(process as i32).ok_or("no process")?;
        let begun = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(|why| why.to_string())?;
        let asked = there.iter().map(|number| {
            let (client, number, node) = (self.clone(), *number, node.clone());
            tokio::spawn(async move { client.answers_elsewhere(number, &node).await })
        });
        let asked: Vec<_> = asked.collect();
        for task in asked {
            task.await.map_err(|why| why.to_string())??;
        }
        Ok((there.len() as u64, millis(begun.elapsed())))
    }

    async fn answers_elsewhere(&self, number: u64, not: &str) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.say(number).await {
                Ok(told) if told != not => return Ok(()),
                Ok(_) | Err(_) if begun.elapsed() < WITHIN => tokio::time::sleep(LOOK_EVERY).await,
                Ok(_) => return Err(format!("child {number} still answers where it was")),
                Err(why) => return Err(why),
            }
        }
    }

    /// The node on which it answers.
    async fn say(&self, number: u64) -> Result<String, String> {
        let child = self.node.singleton::<Echo>(name(number).as_bytes()).map_err(|why| why.to_string())?;
        let told = child.call(&self.node, Say { text: String::new() }).await;
        told.map(|told| told.node).map_err(|why| why.to_string())
    }

    /// Moves a child, and asks it all the while: how many milliseconds the longest wait for an answer was.
    async fn relocate(&self, number: u64) -> Result<f64, String> {
        let before = self.say(number).await?;
        let mover = (self.node.clone(), name(number));
        let moving = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            mover.0.move_child(mover.1.as_bytes()).await.map_err(|why| why.to_string())
        });
        let (begun, mut longest, mut last) = (Instant::now(), Duration::ZERO, Instant::now());
        let mut moved_at: Option<Instant> = None;
        while moved_at.is_none_or(|at| at.elapsed() < Duration::from_millis(50)) {
            let told = self.say(number).await?;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if told != before && moved_at.is_none() {
                moved_at = Some(last);
            }
            if begun.elapsed() > WITHIN {
                return Err(format!("child {number} did not move"));
            }
        }
        moving.await.map_err(|why| why.to_string())??;
        Ok(millis(longest))
    }
}

/// How many nanoseconds it takes to find one of these names, in an order that no cache likes. Whoever looks has the name at hand:
/// fetching that is not timed.
fn timed(all: &[Name], times: u64, find: impl Fn(&Name) -> bool) -> Result<f64, String> {
    let (mut took, mut found, mut at) = (Duration::ZERO, 0_u64, 0_usize);
    let mut asked: Vec<Name> = Vec::with_capacity(AT_HAND);
    for _ in 0..times / AT_HAND as u64 {
        asked.clear();
        for _ in 0..AT_HAND {
            at = (at + 7_919) % all.len();
            asked.push(all[at].clone());
        }
        let begun = Instant::now();
        found += asked.iter().map(|name| u64::from(find(name))).sum::<u64>();
        took += begun.elapsed();
    }
    let times = times / AT_HAND as u64 * AT_HAND as u64;
    if found == times {
        Ok(took.as_nanos() as f64 / times as f64)
    } else {
        Err(format!("{} of {times} lookups found nothing", times - found))
    }
}
