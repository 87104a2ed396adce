//! `tumen config`: the cluster's own configuration.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::client::{Ask, Client, Failure, encoded};
use super::operator::{show, table};
use super::{say, watch};
use crate::http::shapes::{ConfigEntries, ConfigNews, ConfigWritten};

/// What to do with it.
#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// List keys with their values.
    List {
        /// Only keys that begin so.
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show the value under a key, as JSON.
    Get {
        /// The key.
        key: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Put a value under a key, and wait until a majority has it.
    Set(SetArgs),
    /// Remove a key.
    Delete {
        /// The key.
        key: String,
        /// Only if the value of this version is there.
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Follow the changes until Ctrl-C: what is there first.
    Watch {
        /// Only keys that begin so.
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// End after so many changes.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        ask: Ask,
    },
}

/// What is to be put where.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The key, of 1 to 255 bytes.
    key: String,
    /// The value as JSON, such as true, 17 or '{"a":[1]}', of at most 64 KiB.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// The value is text as it stands, and not JSON.
    #[arg(long)]
    text: bool,
    /// Only if the value of this version is there.
    #[arg(long, value_name = "N", conflicts_with = "if_absent")]
    if_version: Option<u64>,
    /// Only if nothing is there.
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    ask: Ask,
}

impl Order {
    pub(super) const fn ask(&self) -> &Ask {
        match self {
            Self::List { ask, .. }
            | Self::Get { ask, .. }
            | Self::Delete { ask, .. }
            | Self::Watch { ask, .. }
            | Self::Set(SetArgs { ask, .. }) => ask,
        }
    }
}

pub(super) fn run(client: &Client, json: bool, order: &Order) -> Result<ExitCode, Failure> {
    match order {
        Order::List { prefix, .. } => {
            show(&client.get(&format!("/config?prefix={}", encoded(prefix)))?, json, listed)?;
        }
        Order::Get { key, .. } => say(client.get::<Json>(&path(key))?.raw.trim_end())?,
        Order::Set(set) => {
            let value = if set.text { Json::from(set.value.as_str()).to_string() } else { set.value.clone() };
            let tag = tag(set.if_version);
            let header = match &tag {
                Some(tag) => Some(("if-match", tag.as_str())),
                None => set.if_absent.then_some(("if-none-match", "*")),
            };
            show(&client.put_json(&path(&set.key), &value, header)?, json, written)?;
        }
        Order::Delete { key, if_version, .. } => {
            let tag = tag(*if_version);
            let header = tag.as_ref().map(|tag| ("if-match", tag.as_str()));
            show(&client.delete_if(&path(key), header)?, json, deleted)?;
        }
        Order::Watch { prefix, count, .. } => {
            let path = format!("/config?watch=true&prefix={}", encoded(prefix));
            // A connection that was opened anew tells what is there once more.
            let mut seen = 0;
            return watch::follow(client, &path, *count, |data| {
                match serde_json::from_str::<ConfigNews>(&data) {
                    Ok(ConfigNews::ConfigUpdated { version, .. }) if version <= seen => return None,
                    Ok(ConfigNews::ConfigUpdated { version, .. }) => seen = version,
                    Ok(ConfigNews::Missed { .. }) | Err(_) => {}
                }
                Some(if json { data } else { told(&data) })
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(key: &str) -> String {
    format!("/config/{}", encoded(key))
}

fn tag(version: Option<u64>) -> Option<String> {
    version.map(|version| format!("\"{version}\""))
}

fn listed(all: &ConfigEntries) -> String {
    if all.values.is_empty() {
        return format!("none, at version {}", all.version);
    }
    let rows = all.values.iter().map(|one| [one.key.clone(), one.version.to_string(), one.value.to_string()]);
    table(["KEY", "VERSION", "VALUE"], rows)
}

fn written(ConfigWritten { key, version }: &ConfigWritten) -> String {
    format!("{key} is set by version {version}")
}

fn deleted(ConfigWritten { key, version }: &ConfigWritten) -> String {
    format!("{key} is gone by version {version}")
}

/// One change as a line for people. One that this version does not know is shown as it came.
fn told(data: &str) -> String {
    let what = match serde_json::from_str::<ConfigNews>(data) {
        Ok(ConfigNews::ConfigUpdated { version, key, value }) => {
            let value = value.map_or_else(|| "gone".to_owned(), |value| value.to_string());
            format!("version {version:<8} {key} is {value}")
        }
        Ok(ConfigNews::Missed { count }) => {
            format!("missed           {count} changes: this listener was too slow")
        }
        Err(_) => data.to_owned(),
    };
    format!("{} {what}", watch::time_of_day())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_lines_for_people() {
        let line = |data: &str| told(data).split_once("Z ").unwrap().1.to_owned();
        assert_eq!(
            line(r#"{"event":"config_updated","version":7,"key":"a b","value":[1]}"#),
            "version 7        a b is [1]"
        );
        assert_eq!(line(r#"{"event":"config_updated","version":8,"key":"a"}"#), "version 8        a is gone");
        assert_eq!(line(r#"{"event":"new"}"#), r#"{"event":"new"}"#);
    }
}
