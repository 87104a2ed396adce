//! `tumen state export` and `import`: a cluster's state as a file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::client::{Ask, Client, Failure, encoded_bytes};
use super::say;
use crate::http::shapes::Import;
use crate::state::{ClusterState, FORMAT, Imported, KvEntry, KvState};

/// A piece of an import has about so many bytes of keys and values at most, but one entry at least.
const PIECE_LEN: usize = 1 << 20;

/// What to do with a state.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write the cluster's state as JSON: nodes, partitions, and what kv keeps.
    Export {
        /// Into this file; to stdout without it. It is replaced when all is there.
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// Nodes and partitions only, without what kv keeps.
        #[arg(long)]
        no_data: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Put what kv kept into this cluster, by ordinary writes, whatever number of partitions it has.
    Import {
        /// The file that an export wrote; `-` for stdin.
        file: PathBuf,
        /// Replace keys that are there already. Without it nothing is written if any is.
        #[arg(long)]
        overwrite: bool,
        /// Only look whether any of the keys is there already.
        #[arg(long, conflicts_with = "overwrite")]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

impl Command {
    pub(super) const fn ask(&self) -> &Ask {
        match self {
            Self::Export { ask, .. } | Self::Import { ask, .. } => ask,
        }
    }

    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Export { file, no_data, .. } => export(client, file.as_deref(), *no_data),
            Self::Import { file, overwrite, dry_run, ask } => {
                let done = import(client, file, *overwrite, *dry_run)?;
                Ok(say(told(&done, *dry_run, ask.json))?)
            }
        }
    }
}

fn export(client: &Client, file: Option<&Path>, no_data: bool) -> Result<(), Failure> {
    let mut state = client.get::<ClusterState>("/state")?.value;
    state.check().map_err(|why| client.strange(why.to_string()))?;
    let partitions: Vec<String> = state.partitions.iter().map(|partition| partition.id.clone()).collect();
    for partition in partitions.iter().filter(|_| !no_data) {
        state.kv.push(whole(client, partition)?);
    }
    match file {
        None => Ok(write(&state, &mut io::stdout().lock())?),
        Some(path) => {
            let at = |why: io::Error| Failure::File { path: path.to_owned(), why: why.to_string() };
            // A file of this name is whole, or is what it was.
            let partial = path.with_added_extension("partial");
            let mut to = BufWriter::new(File::create(&partial).map_err(at)?);
            write(&state, &mut to).map_err(at)?;
            to.into_inner().map_err(|why| at(why.into_error()))?.sync_all().map_err(at)?;
            std::fs::rename(&partial, path).map_err(at)?;
            let (keys, inexact) = (state.entries().count(), state.kv.iter().filter(|kv| !kv.exact).count());
            let of = format!("{keys} keys of {} partitions, version {}", partitions.len(), state.version);
            let changed =
                if inexact > 0 { format!("; {inexact} of them changed meanwhile") } else { String::new() };
            Ok(say(format_args!("{}: {of}{changed}", path.display()))?)
        }
    }
}

fn write(state: &ClusterState, to: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *to, state)?;
    writeln!(to)?;
    to.flush()
}

/// What a partition keeps, piece by piece.
fn whole(client: &Client, partition: &str) -> Result<KvState, Failure> {
    let mut all: Option<KvState> = None;
    loop {
        let after = all.as_ref().and_then(|all| all.entries.last());
        let after = after.map_or_else(String::new, |last| format!("?after={}", encoded_bytes(&last.key.0)));
        let piece = client.get::<KvState>(&format!("/state/kv/{partition}{after}"))?.value;
        let (is_last, is_empty) = (piece.exact, piece.entries.is_empty());
        let gathered = match all.take() {
            None => KvState { exact: true, ..piece },
            Some(mut all) => {
                let same = (all.epoch, all.sequence) == (piece.epoch, piece.sequence);
                all.exact &= same;
                (all.epoch, all.sequence) = (piece.epoch, piece.sequence);
                all.entries.extend(piece.entries);
                all
            }
        };
        if is_last || is_empty {
            return Ok(gathered);
        }
        all = Some(gathered);
    }
}

fn import(client: &Client, path: &Path, overwrite: bool, dry_run: bool) -> Result<Imported, Failure> {
    let at = |why: String| Failure::File { path: path.to_owned(), why };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| BufReader::new(file).read_to_string(&mut text))
    };
    read.map_err(|why| at(why.to_string()))?;
    let state: ClusterState =
        serde_json::from_str(&text).map_err(|why| at(format!("it holds no state: {why}")))?;
    drop(text);
    state.check().map_err(|why| at(why.to_string()))?;
    let pieces = pieces(state.entries());
    let mut done = Imported::default();
    // All of it is looked at before any of it is written.
    let rounds: &[bool] = if overwrite {
        &[false]
    } else if dry_run {
        &[true]
    } else {
        &[true, false]
    };
    for dry_run in rounds {
        for entries in &pieces {
            let piece = Import { format: FORMAT, entries: entries.clone(), overwrite, dry_run: *dry_run };
            let answer = client.post::<Imported>("/state", &piece);
            let one = answer.map_err(|why| if done.changed { why.after_part() } else { why })?.value;
            done.written += one.written;
            done.overwritten += one.overwritten;
            done.changed |= one.changed;
        }
    }
    Ok(done)
}

fn pieces<'a>(entries: impl Iterator<Item = &'a KvEntry>) -> Vec<Vec<KvEntry>> {
    let mut pieces: Vec<Vec<KvEntry>> = Vec::new();
    let mut room = 0;
    for entry in entries {
        let len = entry.key.0.len() + entry.value.0.len() + entry.content_type.len();
        match pieces.last_mut().filter(|_| len <= room) {
            Some(piece) => piece.push(entry.clone()),
            None => {
                pieces.push(vec![entry.clone()]);
                room = PIECE_LEN;
            }
        }
        room = room.saturating_sub(len + 64);
    }
    pieces
}

fn told(done: &Imported, dry_run: bool, json: bool) -> String {
    let Imported { written, overwritten, .. } = done;
    match serde_json::to_string(done) {
        Ok(text) if json => text,
        _ if dry_run => "none of the keys is there yet; nothing was changed".into(),
        _ => format!("{written} keys were written, {overwritten} of them in place of others"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Octets;

    #[test]
    fn pieces_fit_and_lose_nothing() {
        let entry = |len: usize| KvEntry {
            key: Octets("k".into()),
            value: Octets(vec![0; len].into()),
            content_type: String::new(),
        };
        let entries: Vec<KvEntry> = [10, 3 << 20, 10, 600 << 10, 600 << 10, 5].map(entry).into();
        let pieces = pieces(entries.iter());
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2, 2]);
        assert_eq!(pieces.concat(), entries);
    }
}
