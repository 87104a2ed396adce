//! `tumen partitions --moves`, and `--verify`: what is being copied, and whether all copies hold the same.

use std::process::ExitCode;

use super::client::{Client, Failure};
use super::operator::{show, table};
use crate::http::shapes::{Compared, ComparedCopy, Copying, FullSync, Moves};

pub(super) fn moves(moves: &Moves) -> String {
    let row = |copying: &Copying| {
        let Copying { partition, from, to, state, bytes_done, bytes_total, age_ms } = copying;
        let of = |total: u64| format!("{:.1} of {:.1} MB", megabytes(*bytes_done), megabytes(total));
        let far = bytes_total.map_or_else(String::new, of);
        [partition.clone(), from.clone(), to.clone(), state.clone(), far, format!("{age_ms} ms")]
    };
    let mut text = if moves.moves.is_empty() {
        "nothing is being copied".to_owned()
    } else {
        table(["PARTITION", "FROM", "TO", "STATE", "BYTES", "SINCE"], moves.moves.iter().map(row))
    };
    text.push_str(&silent(&moves.unreachable));
    text
}

/// Asks for the comparison, and shows it.
pub(super) fn verify(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let answer = client.post::<FullSync>("/partitions/full-sync", &serde_json::json!({}))?;
    show(&answer, json, found)?;
    Ok(if answer.value.equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn found(sync: &FullSync) -> String {
    let copy = |of: &Compared, copy: &ComparedCopy| {
        let place = |epoch: Option<u64>, sequence: Option<u64>| match (epoch, sequence) {
            (Some(epoch), Some(sequence)) => format!("{epoch}.{sequence}"),
            _ => String::new(),
        };
        let hash = |hash: &Option<String>| hash.clone().unwrap_or_default();
        let state = serde_json::to_value(copy.state).ok().and_then(|state| Some(state.as_str()?.to_owned()));
        [
            of.id.clone(),
            of.primary_node.clone(),
            place(Some(of.epoch), Some(of.sequence)),
            hash(&of.hash),
            copy.node.clone(),
            state.unwrap_or_default(),
            place(copy.epoch, copy.sequence),
            hash(&copy.hash),
        ]
    };
    let rows = sync.partitions.iter().flat_map(|of| of.copies.iter().map(move |one| copy(of, one)));
    let headings = ["PARTITION", "PRIMARY", "AT", "HASH", "COPY", "STATE", "AT", "HASH"];
    let copies: usize = sync.partitions.iter().map(|of| of.copies.len()).sum();
    let verdict = match (sync.equal, sync.differs) {
        (true, _) => format!(
            "{} partitions, {copies} copies beside the primaries': all are equal",
            sync.partitions.len()
        ),
        (false, true) => "copies DIFFER: of each pair at one position one is wrong".to_owned(),
        (false, false) => "not every copy could be compared".to_owned(),
    };
    format!("{}\n{verdict}{}", table(headings, rows), silent(&sync.unreachable))
}

fn silent(nodes: &[String]) -> String {
    if nodes.is_empty() { String::new() } else { format!("\nno answer from {}", nodes.join(", ")) }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
