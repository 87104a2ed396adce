//! `tumen names`, `tumen children` and `tumen singletons`: who answers under which name, and what is to run.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value as Json;
use tumen_core::names::placement::Placing;
use tumen_core::supervision::Restart;

use super::client::{Ask, Client, Failure, encoded};
use super::operator::{show, table};
use super::say;
use crate::config::Value;
use crate::http::shapes::{AllMeta, Child, Children, Echoed, Meta, Moving, Registered, Registry, StartChild};

/// What is listed.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only names that begin so.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// At most so many, up to 10,000.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    ask: Ask,
}

/// What is asked of names: a list, if nothing is said.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct NamesArgs {
    #[command(subcommand)]
    about: Option<About>,
    #[command(flatten)]
    list: ListArgs,
}

/// What else there is to ask.
#[derive(Debug, Subcommand)]
pub(super) enum About {
    /// What the whole cluster is told under keys, which are no names.
    Meta {
        #[command(subcommand)]
        order: MetaOrder,
    },
}

/// What to do with what the cluster is told.
#[derive(Debug, Subcommand)]
pub(super) enum MetaOrder {
    /// List it.
    List(ListArgs),
    /// Show what is told under one key.
    Get(OneArgs),
    /// Tell the cluster something under a key, in place of what it was told there.
    Put {
        /// The key, of 1 to 1,024 bytes.
        key: String,
        /// What, as text.
        #[arg(required_unless_present = "json_value")]
        value: Option<String>,
        /// What, as JSON.
        #[arg(long, value_name = "JSON", conflicts_with = "value", value_parser = json)]
        json_value: Option<Json>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell the cluster nothing more under a key.
    Delete(OneArgs),
}

/// What to do with children: list them, if nothing is said.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ChildrenArgs {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    list: ListArgs,
}

/// An order.
#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// List them.
    List(ListArgs),
    /// Start one, and wait until it runs. Asked twice it is the same as once. A slow start may take longer than --timeout: give
    /// it more.
    Start(Box<StartArgs>),
    /// End one for good, and wait until it runs no more.
    Stop(OneArgs),
    /// Have one run on another node than it does.
    Move(OneArgs),
    /// Ask one of the kind echo, and show what it says. Told crash it panics, told stop it ends.
    Echo {
        /// Its name.
        name: String,
        /// What it is told.
        text: String,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Which one.
#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Its name.
    name: String,
    #[command(flatten)]
    ask: Ask,
}

/// What is to be started.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Its name, of 1 to 1,024 bytes.
    name: String,
    /// Its kind: one that the asked node has a factory for.
    #[arg(long, default_value = "echo")]
    kind: String,
    /// What it is started with, as text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    args: String,
    /// The same as JSON, for kinds that take something else than text.
    #[arg(long, value_name = "JSON", conflicts_with = "args", value_parser = json)]
    args_json: Option<Json>,
    /// Whether it is started again: permanent, transient (after a failure only) or temporary. A singleton is permanent.
    #[arg(long, value_parser = named::<Restart>)]
    restart: Option<Restart>,
    /// The most restarts within the window. One more, and it is given up.
    #[arg(long, value_name = "N")]
    restarts_max: Option<u32>,
    /// The window, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = <Duration as Value>::parse)]
    window: Option<Duration>,
    /// How a node is chosen: uniform (by its name), uniform_active, uniform_quorum, least_loaded or random; any other word is the name
    /// of a placement that the nodes' program has of its own.
    #[arg(long, value_parser = named::<Placing>)]
    placing: Option<Placing>,
    /// What is said of it to whoever looks.
    #[arg(long, value_name = "TEXT")]
    value: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

fn json(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|why| why.to_string())
}

/// One of several words, as they stand in JSON.
fn named<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Json::String(text.to_owned())).map_err(|why| why.to_string())
}

impl ListArgs {
    fn path(&self, of: &str) -> String {
        format!("{of}?prefix={}&limit={}", encoded(&self.prefix), self.limit)
    }
}

impl ChildrenArgs {
    pub(super) const fn ask(&self) -> &Ask {
        match &self.order {
            None => &self.list.ask,
            Some(Order::List(list)) => &list.ask,
            Some(Order::Start(start)) => &start.ask,
            Some(Order::Stop(one) | Order::Move(one)) => &one.ask,
            Some(Order::Echo { ask, .. }) => ask,
        }
    }
}

impl NamesArgs {
    pub(super) const fn ask(&self) -> &Ask {
        match &self.about {
            None => &self.list.ask,
            Some(About::Meta { order }) => match order {
                MetaOrder::List(list) => &list.ask,
                MetaOrder::Get(one) | MetaOrder::Delete(one) => &one.ask,
                MetaOrder::Put { ask, .. } => ask,
            },
        }
    }
}

/// Lists who answers under which name; or says or reads what the cluster is told.
pub(super) fn registry(client: &Client, json: bool, args: &NamesArgs) -> Result<(), Failure> {
    let order = match &args.about {
        None => return show(&client.get(&args.list.path("/registry"))?, json, names),
        Some(About::Meta { order }) => order,
    };
    match order {
        MetaOrder::List(list) => show(&client.get(&list.path("/meta"))?, json, all_meta),
        MetaOrder::Get(OneArgs { name, .. }) => show(&client.get(&path("/meta", name))?, json, meta),
        MetaOrder::Put { key, value, json_value, .. } => {
            let value = json_value.clone().unwrap_or_else(|| value.clone().unwrap_or_default().into());
            show(&client.put(&path("/meta", key), &value)?, json, put)
        }
        MetaOrder::Delete(OneArgs { name, .. }) => {
            client.delete(&path("/meta", name))?;
            say(if json {
                serde_json::json!({ "key": name, "deleted": true }).to_string()
            } else {
                format!("the cluster is told nothing more under {name}")
            })?;
            Ok(())
        }
    }
}

fn all_meta(all: &AllMeta) -> String {
    let row = |one: &Meta| [one.key.clone(), one.number.to_string(), one.value.to_string()];
    listed(table(["KEY", "NUMBER", "VALUE"], all.meta.iter().map(row)), all.count, all.more)
}

fn meta(one: &Meta) -> String {
    // Text as it is, so that a script can take it.
    one.value.as_str().map_or_else(|| one.value.to_string(), str::to_owned)
}

fn put(Meta { key, number, .. }: &Meta) -> String {
    format!("the cluster is told so under {key} (number {number})")
}

/// Lists, or orders: of the children or the singletons.
pub(super) fn run(client: &Client, json: bool, of: &str, args: &ChildrenArgs) -> Result<(), Failure> {
    match &args.order {
        None => show(&client.get(&args.list.path(of))?, json, children),
        Some(Order::List(list)) => show(&client.get(&list.path(of))?, json, children),
        Some(Order::Start(start)) => show(&client.post(of, &start.order())?, json, started),
        Some(Order::Stop(OneArgs { name, .. })) => {
            client.delete(&path(of, name))?;
            say(if json {
                serde_json::json!({ "name": name, "stopped": true }).to_string()
            } else {
                format!("{name} runs no more, and is not started again")
            })?;
            Ok(())
        }
        Some(Order::Move(OneArgs { name, .. })) => {
            let path = format!("{}/move", path(of, name));
            show(&client.post(&path, &serde_json::json!({}))?, json, moving)
        }
        Some(Order::Echo { name, text, .. }) => {
            show(&client.post_text(&format!("{}/echo", path(of, name)), text)?, json, echoed)
        }
    }
}

fn path(of: &str, name: &str) -> String {
    format!("{of}/{}", encoded(name))
}

impl StartArgs {
    fn order(&self) -> StartChild {
        StartChild {
            name: self.name.clone(),
            kind: self.kind.clone(),
            args: self.args_json.clone().unwrap_or_else(|| self.args.clone().into()),
            restart: self.restart,
            restarts_max: self.restarts_max,
            window_ms: self.window.map(|window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX)),
            placing: self.placing.clone(),
            value: self.value.clone(),
        }
    }
}

fn names(registry: &Registry) -> String {
    let row = |one: &Registered| {
        let Registered { name, kind, node, fence, value, .. } = one;
        let kind = kind.clone().unwrap_or_else(|| "-".into());
        [name.clone(), kind, node.clone(), fence.to_string(), value.clone()]
    };
    let shown = table(["NAME", "KIND", "NODE", "FENCE", "VALUE"], registry.names.iter().map(row));
    listed(shown, registry.count, registry.more)
}

fn children(children: &Children) -> String {
    let row = |child: &Child| {
        let node = child.node.clone().unwrap_or_else(|| "-".into());
        [
            child.name.clone(),
            child.kind.clone(),
            child.state.clone(),
            node,
            child.fence.to_string(),
            child.restarts.to_string(),
            word(child.restart),
            child.placing.to_string(),
            child.value.clone(),
        ]
    };
    let headings = ["NAME", "KIND", "STATE", "NODE", "FENCE", "RESTARTS", "RESTART", "PLACING", "VALUE"];
    listed(table(headings, children.children.iter().map(row)), children.count, children.more)
}

fn listed(table: String, count: usize, more: bool) -> String {
    match (count, more) {
        (0, _) => "none".into(),
        (_, false) => table,
        (_, true) => format!("{table}\nand more: ask for a --prefix, or a higher --limit"),
    }
}

/// One of several words, as it stands in JSON.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

fn started(child: &Child) -> String {
    let Child { name, kind, state, node, fence, .. } = child;
    let node = node.as_deref().unwrap_or("no node");
    format!("{name}, of the kind {kind}, is {state} on {node} under the fence {fence}")
}

fn moving(Moving { name, from }: &Moving) -> String {
    from.as_ref().map_or_else(
        || format!("{name} runs nowhere at present: it will, on a node that can"),
        |from| format!("{name} leaves {from}, if another node can run it"),
    )
}

fn echoed(echoed: &Echoed) -> String {
    let Echoed { name, node, fence, count, text, .. } = echoed;
    format!("{name} on {node}, under the fence {fence}, has answered {count} by now: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_interface() {
        assert_eq!(named::<Restart>("transient"), Ok(Restart::Transient));
        assert_eq!(named::<Placing>("least_loaded"), Ok(Placing::LeastLoaded));
        assert!(named::<Restart>("always").is_err_and(|why| why.contains("permanent")));
        assert_eq!(
            (word(Restart::Temporary), word(Placing::UniformQuorum)),
            ("temporary".into(), "uniform_quorum".into())
        );
    }
}
