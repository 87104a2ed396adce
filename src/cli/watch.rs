//! `tumen watch`: the cluster's events, as they happen; where that is asked for, what happens to names and children too.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use super::client::{Client, Events, Failure, encoded};
use super::{complain, say};
use crate::config::Value;
use crate::http::shapes::Event;

/// How long to try to reach the node again before giving up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Follows the events until there are `count` of them, or for ever. A connection that is lost is opened again; one that
/// never came about, or does not come back, is an error.
pub(super) fn run(
    client: &Client,
    json: bool,
    count: Option<u64>,
    names: Option<&str>,
) -> Result<ExitCode, Failure> {
    let path = match names {
        None => "/events".to_owned(),
        Some(prefix) => format!("/events?names=true&prefix={}", encoded(prefix)),
    };
    follow(client, &path, count, |data| Some(if json { data } else { told(&data) }))
}

/// Follows one stream of events, and says of each what is to be shown; `None` is not shown and not counted.
pub(super) fn follow(
    client: &Client,
    path: &str,
    count: Option<u64>,
    mut shown: impl FnMut(String) -> Option<String>,
) -> Result<ExitCode, Failure> {
    let mut left = count;
    let mut stream = client.events(path)?;
    loop {
        let lost = loop {
            if left == Some(0) {
                return Ok(ExitCode::SUCCESS);
            }
            match stream.next() {
                Some(Ok(data)) => {
                    let Some(shown) = shown(data) else { continue };
                    say(shown)?;
                    left = left.map(|left| left - 1);
                }
                Some(Err(why)) => break why.to_string(),
                None => break format!("{} ended the stream", client.base()),
            }
        };
        complain(&format!("{lost}; trying again"));
        stream = again(client, path)?;
    }
}

fn again(client: &Client, path: &str) -> Result<Events, Failure> {
    let begun = Instant::now();
    let mut wait = Duration::from_millis(250);
    loop {
        std::thread::sleep(wait);
        match client.events(path) {
            Ok(stream) => return Ok(stream),
            Err(why) if begun.elapsed() >= PATIENCE => {
                complain(&format!("giving up after {}", PATIENCE.show()));
                return Err(why);
            }
            Err(_) => wait = (wait * 2).min(WAIT_MAX),
        }
    }
}

/// One event as a line for people. An event that this version does not know is shown as it came.
fn told(data: &str) -> String {
    let event =
        serde_json::from_str::<Event>(data).map_or_else(|_| data.to_owned(), |event| sentence(&event));
    format!("{} {event}", time_of_day())
}

fn sentence(event: &Event) -> String {
    let node = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".into());
    match event {
        Event::NodeUp { node, boot, rejoined: None } => format!("node up           {node} (boot {boot})"),
        Event::NodeUp { node, boot, rejoined: Some(rejoined) } => {
            let away = Duration::from_millis(rejoined.away_ms).show();
            let (led, had) = (rejoined.primaries_held, rejoined.replicas_held);
            format!(
                "node up           {node} (boot {boot}), back after {away}; it had led {led} and copied {had}"
            )
        }
        Event::NodeDown { node, boot, reason } => {
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("node down         {node} (boot {boot}){why}")
        }
        Event::NodeRemoved { node, boot } => {
            format!("node removed      {node} (boot {boot}): it is no member any more")
        }
        Event::Snapshot { version, term, leader } => {
            format!("snapshot          version {version} by {leader} in term {term}")
        }
        Event::PartitionMoved { partition, from, to, epoch, version, reason, .. } => {
            let (from, to) = (node(from), node(to));
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!(
                "partition moved   {partition} from {from} to {to} (epoch {epoch}, version {version}){why}"
            )
        }
        Event::PartitionCopies { partition, added, removed, version, .. } => {
            let (added, removed) = (names(added), names(removed));
            format!(
                "partition copies  {partition}: more on {added}, none any more on {removed} (version {version})"
            )
        }
        Event::RebalanceStarted { trigger, nodes, moves, version } => {
            let about = if nodes.is_empty() { String::new() } else { format!(" {}", names(nodes)) };
            format!("rebalance started {moves} moves, for {trigger}{about} (version {version})")
        }
        Event::RebalanceCompleted { trigger, moves, version, took_ms } => {
            format!("rebalance over    {moves} moves in {took_ms} ms, for {trigger} (version {version})")
        }
        Event::ConfigUpdated { key, version, deleted } => {
            let what = if *deleted { "is gone" } else { "has another value" };
            format!("config updated    {key} {what} (change {version})")
        }
        Event::ConfigMissed { count } => format!("config missed     {count} changes came too fast"),
        Event::HandoverStarted { partition, from, to, bytes } => {
            format!("handover started  {partition} from {from} to {to} ({bytes} bytes)")
        }
        Event::HandoverFinished { partition, from, to, bytes, took_ms, failed } => {
            let how = failed.as_ref().map_or_else(String::new, |why| format!(": it failed, {why}"));
            format!("handover finished {partition} from {from} to {to} ({bytes} bytes in {took_ms} ms){how}")
        }
        Event::PartitionLost { partition, epoch } => {
            format!("partition lost    {partition} (epoch {epoch}): too few of its copies are left")
        }
        Event::PartitionFound { partition } => format!("partition found   {partition}"),
        Event::Health { node, status, was, reasons, cleared } => {
            let of = node.as_deref().unwrap_or("the cluster");
            let is = status.map_or_else(|| "no member any more".to_owned(), |status| status.to_string());
            let was = was.map_or_else(String::new, |was| format!(", it was {was}"));
            let why = |label: &str, codes: &[String]| match codes {
                [] => String::new(),
                codes => format!("; {label}{}", codes.join(", ")),
            };
            format!("health            {of} is {is}{was}{}{}", why("", reasons), why("no more: ", cleared))
        }
        Event::Leader { leader, term } => format!("leader            {} in term {term}", node(leader)),
        Event::Missed { count } => format!("missed            {count} events: this listener was too slow"),
        Event::NameRegistered { name, node, actor, fence, .. } => {
            format!("name registered   {name} by actor {actor} on {node} (fence {fence})")
        }
        Event::NameUpdated { name, fence } => format!("name updated      {name} (fence {fence})"),
        Event::NameUnregistered { name, node: on, fence, reason } => {
            format!("name unregistered {name} on {} (fence {fence}): {reason}", node(on))
        }
        Event::ChildStarted { name, kind, node, fence, .. } => {
            format!("child started     {name}, of the kind {kind}, on {node} (fence {fence})")
        }
        Event::ChildMoving { name, kind, from, fence } => {
            format!("child moving      {name}, of the kind {kind}, from {} (fence {fence})", node(from))
        }
        Event::ChildEnded { name, kind, node: on, fence, reason, goes_on } => {
            let on = on.as_ref().map_or_else(String::new, |on| format!(" on {on}"));
            let next = if *goes_on { "; it is started again" } else { "" };
            format!("child ended       {name}, of the kind {kind},{on} (fence {fence}): {reason}{next}")
        }
        Event::NamesMissed { count } => {
            format!("names missed      {count} events of names: this listener was too slow")
        }
    }
}

fn names(nodes: &[String]) -> String {
    if nodes.is_empty() { "nobody".to_owned() } else { nodes.join(", ") }
}

/// Hours, minutes and seconds, UTC.
pub(super) fn time_of_day() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since_1970.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
