//! A cluster's state as one value, to be carried away and put into another cluster.
//!
//! ```text
//!  Node::state ─▶ who is there, who holds what           Node::export_state ─▶ and what kv keeps, partition by partition
//!  Node::import_state ◀─ what kv kept, by ordinary writes: the other cluster may have any number of partitions
//! ```
//!
//! Who is there and who holds what is a record: importing puts nothing of it in force, for a cluster decides that itself.
//! Of the data, what the built-in worker `kv` keeps is carried; what a worker of your own keeps, only it can read.

use std::fmt;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tumen_core::cluster::member::Status;
use tumen_core::cluster::snapshot::{Mode, Snapshot};
use tumen_core::{Epoch, GroupId, PartitionId};

use crate::error::{Error, Result};
use crate::kv::{CompareAndSet, Compared, Expected, Get, Kv, Put, Scan, Value};
use crate::node::{Node, Partition};
use crate::worker::Worker;

/// The newest form of [`ClusterState`] that this version writes. It reads this one and all older.
pub const FORMAT: u32 = 1;

/// How many keys are written at once by an import.
const AT_ONCE: usize = 64;

/// How often a partition is read anew that changes while it is read.
const TRIES: usize = 3;

/// What a node knows of its cluster, and, where it was exported, what the worker `kv` keeps.
///
/// In JSON, readers ignore fields that they do not know, and take those that are missing for empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterState {
    /// The form of this value: [`FORMAT`], or an older one.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Its random identity, 16 hexadecimal digits; empty before the first plan.
    pub id: String,
    /// The number of the plan that this is by; 0 before the first.
    pub version: u64,
    /// The term of the leader that computed it.
    pub term: u64,
    /// When it was computed, in milliseconds since 1970.
    pub computed_at_ms: u64,
    /// What a write's acknowledgement promises: `async`, `sync` or `strong`.
    pub mode: String,
    /// How many copies of each partition are wanted.
    pub replication: u32,
    /// The strategy that places them.
    pub strategy: String,
    /// The members, by name.
    pub nodes: Vec<NodeState>,
    /// The partitions, by index, and where their copies are.
    pub partitions: Vec<PartitionState>,
    /// What `kv` keeps, by partition; empty where it was not exported.
    pub kv: Vec<KvState>,
}

/// One member of a [`ClusterState`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// `up`, `leaving`, `away` or `lost`.
    pub state: String,
    /// Where its cluster port is reached.
    pub address: String,
    /// Its failure domain, if it was told one.
    pub zone: Option<String>,
    /// Its share of the work beside the others' weights.
    pub weight: u32,
    /// The kinds of worker that it hosts.
    pub services: Vec<String>,
}

/// One partition of a [`ClusterState`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionState {
    /// Its name, such as `partition-7`.
    pub id: String,
    /// The node that writes it, if one does.
    pub primary: Option<String>,
    /// The nodes that hold its other copies.
    pub replicas: Vec<String>,
    /// One more each time its primary changed.
    pub epoch: u64,
}

/// What `kv` keeps in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvState {
    /// The partition's name.
    pub partition: String,
    /// The epoch of the last change that is in it. With `sequence`: where in the partition's log it was read.
    pub epoch: u64,
    /// That change's place in the log.
    pub sequence: u64,
    /// Whether it is exactly what the partition kept there. Else it changed while it was read in pieces, and each key is as
    /// it was at some moment up to then.
    pub exact: bool,
    /// The keys, in their order.
    pub entries: Vec<KvEntry>,
}

/// One key of `kv`, and what is under it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// The key.
    pub key: Octets,
    /// The value.
    pub value: Octets,
    /// What it is, as a media type.
    pub content_type: String,
}

/// Bytes that are shown as text where they are text, and as `{"hex": ".."}` where they are not.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Shown", into = "Shown")]
pub struct Octets(pub Bytes);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Shown {
    Text(String),
    Hex { hex: String },
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// How many keys were written.
    pub written: u64,
    /// How many of them were there before; none, unless they were to be overwritten.
    pub overwritten: u64,
    /// Whether anything was changed.
    pub changed: bool,
}

impl From<Octets> for Shown {
    fn from(Octets(bytes): Octets) -> Self {
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => {
                let digit = |four: u8| char::from_digit(four.into(), 16).unwrap_or('0');
                Self::Hex { hex: bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect() }
            }
        }
    }
}

impl TryFrom<Shown> for Octets {
    type Error = &'static str;

    fn try_from(shown: Shown) -> Result<Self, Self::Error> {
        let hex = match shown {
            Shown::Text(text) => return Ok(Self(text.into())),
            Shown::Hex { hex } => hex,
        };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
            return Err("hex has two digits for each byte");
        };
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        bytes.map(|bytes| Self(bytes.into())).ok_or("hex has the digits 0 to 9 and a to f")
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl ClusterState {
    fn of(plan: &Snapshot) -> Self {
        let nodes = plan.members.iter().map(|member| NodeState {
            name: member.name().to_string(),
            state: state_name(member.status).to_owned(),
            address: member.info.address.clone(),
            zone: member.info.zone.as_ref().map(ToString::to_string),
            weight: member.info.weight,
            services: member.info.services.clone(),
        });
        let partitions = Partition::all(plan).into_iter().map(|partition| PartitionState {
            id: partition.name,
            primary: partition.primary_node.map(|node| node.to_string()),
            replicas: partition.replica_nodes.iter().map(ToString::to_string).collect(),
            epoch: partition.epoch.0,
        });
        let spec = &plan.users().spec;
        Self {
            format: FORMAT,
            cluster: plan.name.to_string(),
            id: plan.cluster.to_string(),
            version: plan.version.0,
            term: plan.term.0,
            computed_at_ms: plan.computed_at.0,
            mode: spec.mode.to_string(),
            replication: spec.replication,
            strategy: spec.strategy.clone(),
            nodes: nodes.collect(),
            partitions: partitions.collect(),
            kv: Vec::new(),
        }
    }

    /// Whether this version can read it.
    ///
    /// # Errors
    /// It was written by a newer version, in a form that this one does not know.
    pub fn check(&self) -> Result<()> {
        if self.format > FORMAT {
            let format = self.format;
            return Err(Error::rejected(format!(
                "the state is of form {format}, and this version reads forms up to {FORMAT}: use a newer one"
            )));
        }
        Ok(())
    }

    /// The keys of all partitions.
    pub fn entries(&self) -> impl Iterator<Item = &KvEntry> {
        self.kv.iter().flat_map(|partition| &partition.entries)
    }
}

fn state_name(status: Status) -> &'static str {
    match status {
        Status::Up => "up",
        Status::Leaving => "leaving",
        Status::Away => "away",
        Status::Lost => "lost",
    }
}

impl Node {
    /// What this node knows of its cluster, without anybody's data. Asks nobody.
    pub fn state(&self) -> ClusterState {
        self.snapshot().map_or_else(
            || ClusterState {
                format: FORMAT,
                cluster: self.config().cluster.to_string(),
                mode: Mode::to_string(&self.config().mode),
                ..ClusterState::default()
            },
            |plan| ClusterState::of(&plan),
        )
    }

    /// The same with what the worker `kv` keeps, taken from the primaries one partition after the other. All of it is
    /// held in memory.
    ///
    /// # Errors
    /// A primary does not answer: nothing was changed. Or no plan is known, or this node does not host `kv`.
    pub async fn export_state(&self) -> Result<ClusterState> {
        let mut state = self.state();
        for partition in self.list_partitions() {
            state.kv.push(self.export_partition(&partition).await?);
        }
        Ok(state)
    }

    /// What `kv` keeps in one partition, from its primary.
    pub(crate) async fn export_partition(&self, partition: &Partition) -> Result<KvState> {
        let mut tries = 1;
        loop {
            let state = self.read_partition(partition).await?;
            if state.exact || tries == TRIES {
                return Ok(state);
            }
            tries += 1;
        }
    }

    async fn read_partition(&self, partition: &Partition) -> Result<KvState> {
        let mut state = KvState { partition: partition.name.clone(), exact: true, ..KvState::default() };
        let mut after = None;
        loop {
            let page = self.scan(partition.id, after.clone()).await?;
            let (first, place) = (after.is_none(), (page.epoch, page.sequence));
            state.exact &= first || (state.epoch, state.sequence) == place;
            (state.epoch, state.sequence) = place;
            after = page.entries.last().map(|entry| entry.key.0.clone());
            state.entries.extend(page.entries);
            if page.exact {
                return Ok(state);
            }
        }
    }

    /// The next keys of a partition in their order, at most about a mebibyte; `exact`: there are no more.
    pub(crate) async fn scan(&self, partition: PartitionId, after: Option<Bytes>) -> Result<KvState> {
        if !self.hosts(Kv::KIND) {
            return Err(Error::NotFound("this node does not host kv: its builder did not say .kv()".into()));
        }
        let page = self.call_partition_placed(partition, Scan { after }, self.call_options()).await?;
        let entries = page.value.entries.into_iter().map(|(key, Value { bytes, content_type })| KvEntry {
            key: Octets(key),
            value: Octets(bytes),
            content_type,
        });
        let (Epoch(epoch), sequence, exact) = (page.epoch, page.sequence, !page.value.more);
        Ok(KvState { partition: partition.to_string(), epoch, sequence, exact, entries: entries.collect() })
    }

    /// Puts what `kv` kept elsewhere into this cluster, by ordinary writes: each key goes to the partition that it belongs to
    /// here, and has a new version. Without `overwrite` it is first looked whether any of the keys is there already.
    ///
    /// # Errors
    /// Without `overwrite`: keys are there already, which is said before anything is written; or somebody else writes one
    /// meanwhile, which is left as it is. A primary does not answer. [`Error::changed`] tells whether anything was
    /// written; doing it again with `overwrite` writes the rest.
    pub async fn import_state(&self, state: &ClusterState, overwrite: bool) -> Result<Imported> {
        state.check()?;
        if !overwrite {
            for partition in &state.kv {
                self.refuse_existing(&partition.entries).await?;
            }
        }
        let mut done = Imported::default();
        for partition in &state.kv {
            let (one, failed) = match self.import_entries(&partition.entries, overwrite).await {
                Ok(one) => (one, None),
                Err((one, why)) => (one, Some(why)),
            };
            done.written += one.written;
            done.overwritten += one.overwritten;
            done.changed |= one.changed;
            match failed {
                Some(why) if done.changed => {
                    let written = done.written;
                    return Err(Error::failed(format!("{written} keys were written, then: {why}")));
                }
                Some(why) => return Err(why),
                None => {}
            }
        }
        Ok(done)
    }

    /// # Errors
    /// One of the keys is there already, or a primary does not answer. Nothing was changed.
    pub(crate) async fn refuse_existing(&self, entries: &[KvEntry]) -> Result<()> {
        let (mut count, mut example) = (0_u64, None);
        for some in entries.chunks(AT_ONCE) {
            let looks = some.iter().map(|entry| self.call(&entry.key.0, Get { key: entry.key.0.clone() }));
            for (entry, found) in some.iter().zip(join_all(looks).await) {
                if found?.is_some() {
                    count += 1;
                    example = example.or(Some(entry));
                }
            }
        }
        match example {
            None => Ok(()),
            Some(entry) => Err(Error::rejected(format!(
                "{count} of the keys are there already, such as {:?}: nothing was changed; say overwrite to replace them",
                entry.key
            ))),
        }
    }

    /// Writes these. The error comes with what was written before it.
    pub(crate) async fn import_entries(
        &self,
        entries: &[KvEntry],
        overwrite: bool,
    ) -> Result<Imported, (Imported, Error)> {
        let mut done = Imported::default();
        for some in entries.chunks(AT_ONCE) {
            let mut failed = None;
            for written in join_all(some.iter().map(|entry| self.import_entry(entry, overwrite))).await {
                match written {
                    Ok(new) => {
                        done.written += 1;
                        done.overwritten += u64::from(!new);
                        done.changed = true;
                    }
                    Err(why) => failed = failed.or(Some(why)),
                }
            }
            if let Some(why) = failed {
                return Err((done, why));
            }
        }
        Ok(done)
    }

    /// Whether nothing was there before.
    async fn import_entry(&self, entry: &KvEntry, overwrite: bool) -> Result<bool> {
        let KvEntry { key: Octets(key), value: Octets(bytes), content_type } = entry.clone();
        let value = Value { bytes, content_type };
        if overwrite {
            return Ok(self.call(key.clone(), Put { key, value }).await?.new);
        }
        let asked = CompareAndSet { key: key.clone(), expected: Expected::Nothing, value: Some(value) };
        match self.call(key.clone(), asked).await? {
            Compared::Stored(stored) => Ok(stored.new),
            Compared::Differs(_) | Compared::Removed => Err(Error::rejected(format!(
                "the key {key:?} is there by now: it was left as it is; say overwrite to replace it"
            ))),
        }
    }
}

/// The partition of the users' group with this name.
pub(crate) fn named(node: &Node, name: &str) -> Result<Partition> {
    let partition = node.partition(name)?;
    debug_assert!(partition.id.group == GroupId::Users, "only those have names here");
    Ok(partition)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn octets() -> impl Strategy<Value = Octets> {
        prop_oneof![
            ".{0,12}".prop_map(|text| Octets(text.into())),
            proptest::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| Octets(bytes.into())),
        ]
    }

    prop_compose! {
        fn node()(name in "[a-z]{1,4}", state in "up|lost", zone in proptest::option::of("[a-z]{1,3}"), weight in any::<u32>())
            -> NodeState
        {
            NodeState { name, state, zone, weight, services: vec!["kv".into()], address: "a:1".into() }
        }
    }

    prop_compose! {
        fn kv()(epoch in any::<u64>(), sequence in any::<u64>(), exact in any::<bool>(),
            entries in proptest::collection::vec((octets(), octets(), ".{0,8}"), 0..4)) -> KvState
        {
            let entries = entries.into_iter().map(|(key, value, content_type)| KvEntry { key, value, content_type });
            KvState { partition: "partition-0".into(), epoch, sequence, exact, entries: entries.collect() }
        }
    }

    prop_compose! {
        fn state()(version in any::<u64>(), nodes in proptest::collection::vec(node(), 0..4),
            primary in proptest::option::of("[a-z]{1,3}"), epoch in any::<u64>(),
            kv in proptest::collection::vec(kv(), 0..3)) -> ClusterState
        {
            let partition = PartitionState { id: "partition-0".into(), primary, replicas: vec!["b".into()], epoch };
            let partitions = vec![partition];
            ClusterState { format: FORMAT, cluster: "c".into(), version, nodes, partitions, kv, ..ClusterState::default() }
        }
    }

    proptest! {
        #[test]
        fn a_state_that_is_written_and_read_is_the_same(state in state()) {
            let json = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<ClusterState>(&json).unwrap(), state);
        }
    }

    #[test]
    fn what_a_reader_does_not_know_is_ignored_and_what_is_missing_is_empty() {
        let json = r#"{"format":1,"cluster":"c","later":{"a":[1]},"nodes":[{"name":"n","later":1}],
            "kv":[{"partition":"partition-0","entries":[
                {"key":"a","value":{"hex":"ff00"},"content_type":"t","later":true}]}]}"#;
        let state: ClusterState = serde_json::from_str(json).unwrap();
        assert_eq!((&*state.cluster, state.version, &*state.nodes[0].name), ("c", 0, "n"));
        let entry = state.entries().next().unwrap();
        assert_eq!((&entry.key.0[..], &entry.value.0[..]), (&b"a"[..], &[0xff, 0][..]));
        for bad in [r#"{"hex":"f"}"#, r#"{"hex":"zz"}"#, "1"] {
            assert!(serde_json::from_str::<Octets>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_newer_form_is_refused() {
        let newer = ClusterState { format: FORMAT + 1, ..ClusterState::default() };
        assert_eq!(newer.check().unwrap_err().changed(), Some(false));
        assert!(ClusterState::default().check().is_ok());
    }
}
