//! `tumen partition`: one partition, how it is, and the word that gives up what is lost of it.

use std::io::{self, IsTerminal, Write};

use clap::Subcommand;

use super::client::{Ask, Client, Failure, encoded};
use super::operator::{show, table};
use crate::http::shapes::{CopyDetail, LossAccepted, PartitionDetail};

/// What to do with the partition.
#[derive(Debug, Subcommand)]
pub(super) enum About {
    /// Show how it is, which of its copies count, and what it waits for.
    Show {
        /// The partition's id, such as `partition-7`.
        id: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Give up what is gone of a lost partition, for good: it goes on with what is left, or begins anew, empty.
    ///
    /// What was acknowledged and is on no copy that is left is lost, and stays so if a copy returns later that has it. Refused
    /// where the partition is not lost. Start the nodes first that may still have its data.
    AcceptLoss {
        /// The partition's id, such as `partition-7`.
        id: String,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Asks, or orders.
pub(super) fn run(client: &Client, json: bool, about: &About) -> Result<(), Failure> {
    match about {
        About::Show { id, .. } => show(&client.get(&path(id))?, json, detail),
        About::AcceptLoss { id, yes, .. } => {
            if !yes {
                let shown = client.get::<PartitionDetail>(&path(id))?.value;
                confirm(&shown)?;
            }
            let answer = client.post(&format!("{}/accept-loss", path(id)), &serde_json::json!({}))?;
            show(&answer, json, accepted)
        }
    }
}

fn path(id: &str) -> String {
    format!("/partitions/{}", encoded(id))
}

/// Has a person say the partition's name, who was shown what is left of it.
fn confirm(shown: &PartitionDetail) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Unconfirmed("nobody is there to be asked: say --yes".into()));
    }
    let id = &shown.partition.id;
    let mut out = io::stderr().lock();
    writeln!(out, "{}", detail(shown))?;
    writeln!(out, "What no copy has that is here now is lost for good, also if another one returns.")?;
    write!(out, "Say {id} to go on with what is left: ")?;
    out.flush()?;
    let mut said = String::new();
    io::stdin().read_line(&mut said)?;
    if said.trim() == id { Ok(()) } else { Err(Failure::Unconfirmed("something else was said".into())) }
}

fn detail(shown: &PartitionDetail) -> String {
    let PartitionDetail { partition, state, waits_for, copies, write_quorum, seal_quorum, .. } = shown;
    let primary = partition.primary_node.as_deref().unwrap_or("nobody");
    let waits = match waits_for.as_slice() {
        [] => String::new(),
        nodes => format!(", waits for {}", nodes.join(", ")),
    };
    let head = format!("{} is {state}{waits}; primary {primary}, epoch {}", partition.id, partition.epoch);
    if copies.is_empty() {
        return format!("{head}; no copy counts");
    }
    let quorums =
        format!("{write_quorum} of {} copies hold a write, a new primary hears {seal_quorum}", copies.len());
    format!("{head}\n{quorums}\n{}", copy_table(copies))
}

fn copy_table(copies: &[CopyDetail]) -> String {
    let rows = copies.iter().map(|copy| {
        let sequence = copy.sequence.map_or_else(|| "-".into(), |sequence| sequence.to_string());
        [copy.node.clone(), copy.life.clone(), copy.state.clone(), sequence]
    });
    table(["COPY ON", "LIFE", "STATE", "SEQUENCE"], rows)
}

fn accepted(done: &LossAccepted) -> String {
    let nodes = |copies: &[CopyDetail]| match copies {
        [] => "nobody".to_owned(),
        copies => copies.iter().map(|copy| copy.node.as_str()).collect::<Vec<_>>().join(", "),
    };
    let LossAccepted { partition, version, epoch, survivors, given_up, empty, .. } = done;
    let begins =
        if *empty { "begins anew, empty".to_owned() } else { format!("goes on with {}", nodes(survivors)) };
    format!(
        "version {version}: {partition} {begins} under epoch {epoch}; given up are the copies of {}",
        nodes(given_up)
    )
}
