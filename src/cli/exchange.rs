//! `tumen topics`, `tumen publish` and `tumen groups`: the users' own topics and groups.

use clap::Args;
use serde_json::Value as Json;

use super::client::{Ask, Client, Failure, encoded};
use super::operator::{show, table};
use crate::http::shapes::{Group, GroupMember, GroupMembers, Groups, Said, Topic, Topics};

/// What is to be said.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The topic, of 1 to 255 bytes.
    topic: String,
    /// What, as JSON, such as true, 17 or '{"item":"tea","cents":250}'.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// It is text as it stands, and not JSON.
    #[arg(long)]
    text: bool,
    /// Keep it for those who listen later.
    #[arg(long)]
    retain: bool,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// Of which groups.
#[derive(Debug, Args)]
pub(super) struct GroupsArgs {
    /// Show the members of this one.
    group: Option<String>,
    #[command(flatten)]
    pub(super) ask: Ask,
}

pub(super) fn topics(client: &Client, json: bool) -> Result<(), Failure> {
    show(&client.get("/topics")?, json, |all: &Topics| {
        if all.topics.is_empty() {
            return "nobody listens to anything".to_owned();
        }
        let row = |topic: &Topic| {
            let nodes: Vec<_> = topic.nodes.iter().map(|(node, count)| format!("{node} ({count})")).collect();
            [topic.name.clone(), topic.local.to_string(), nodes.join(" "), topic.retained_by.join(" ")]
        };
        table(["TOPIC", "HERE", "ELSEWHERE", "RETAINED BY"], all.topics.iter().map(row))
    })
}

pub(super) fn publish(client: &Client, args: &PublishArgs) -> Result<(), Failure> {
    let value = if args.text { Json::from(args.value.as_str()).to_string() } else { args.value.clone() };
    let query = if args.retain { "?retain=true" } else { "" };
    let path = format!("/topics/{}{query}", encoded(&args.topic));
    show(&client.post_text(&path, &value)?, args.ask.json, said)
}

fn said(said: &Said) -> String {
    let lost = if said.lost == 0 { String::new() } else { format!("; not sent to {}", said.lost) };
    format!("said to {} here and {} on {} other nodes{lost}", said.local, said.remote, said.nodes)
}

pub(super) fn groups(client: &Client, args: &GroupsArgs) -> Result<(), Failure> {
    let json = args.ask.json;
    if let Some(group) = &args.group {
        return show(&client.get(&format!("/groups/{}", encoded(group)))?, json, |all: &GroupMembers| {
            let row = |one: &GroupMember| [one.node.clone(), one.boot.clone(), one.actor.to_string()];
            table(["NODE", "BOOT", "ACTOR"], all.members.iter().map(row))
        });
    }
    show(&client.get("/groups")?, json, |all: &Groups| {
        if all.groups.is_empty() {
            return "no group has members".to_owned();
        }
        let row = |one: &Group| [one.name.clone(), one.members.to_string(), one.local.to_string()];
        table(["GROUP", "MEMBERS", "HERE"], all.groups.iter().map(row))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_told_in_words() {
        let one = Said { local: 1, remote: 4, nodes: 2, lost: 0 };
        assert_eq!(said(&one), "said to 1 here and 4 on 2 other nodes");
        let lost = Said { lost: 3, ..one };
        assert_eq!(said(&lost), "said to 1 here and 4 on 2 other nodes; not sent to 3");
    }
}
