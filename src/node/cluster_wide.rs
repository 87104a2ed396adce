//! The cluster's own configuration: values under keys, the same on every node, changed in one order by a majority.

use std::fmt;
use std::time::Duration;

use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tumen_actors::cluster::config_store::ConfigWatch;
use tumen_actors::cluster::pubsub;
use tumen_actors::node::{ConfigFailure, ControlReport};
use tumen_core::cluster::configuration::{self, Entry, Expected, Invalid, Json, Key, Written};
use tumen_core::{ConfigVersion, NodeBoot};

use super::Node;
use super::subscription::{News, Subscription, sealed};
use crate::error::Result;

/// How many reports wait for a subscriber that is busy.
const REPORTS_LEN: usize = 1024;

/// A value of the cluster's own configuration. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigValue(Entry);

/// What became of the cluster's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigEvent {
    /// A value is under a key, or none any more.
    Updated {
        /// By which change: one more for each, of whichever key.
        version: ConfigVersion,
        /// Under which key.
        key: String,
        /// The value; `None`: there is none any more.
        value: Option<ConfigValue>,
    },
    /// Before what comes next there were so many changes, of any keys, that are not kept any more: this subscriber was too slow, or
    /// its node had been away. Of these only the values that still stand are told.
    Missed {
        /// How many.
        count: u64,
    },
}

/// What a node said of a change on its way: see [`ControlReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Which run of which node.
    pub by: NodeBoot,
    /// What.
    pub report: ControlReport,
}

impl ConfigValue {
    /// The change that put it there.
    pub const fn version(&self) -> ConfigVersion {
        self.0.version
    }

    /// The value as JSON.
    pub fn json(&self) -> &str {
        self.0.value.as_str()
    }

    /// The value as it was set.
    ///
    /// # Errors
    /// It is of another type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        read(&self.0)
    }
}

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (version {})", self.json(), self.version())
    }
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_str(entry.value.as_str())
        .map_err(|why| ConfigFailure::Invalid(Invalid::OtherType(why.to_string())).into())
}

/// A value as it is kept.
fn written(value: &impl Serialize) -> Result<Json, ConfigFailure> {
    let json = serde_json::to_string(value).map_err(|why| Invalid::ValueJson(why.to_string()))?;
    Ok(Json::new(&json)?)
}

impl Node {
    /// Puts a value under a key of the cluster's own configuration: of any type that serde knows, at most 64 KiB as JSON. On
    /// `Ok` a majority of the voters has it, so it is never lost again, and this node reads it;
    /// [`Node::await_cluster_wide`] waits for it on another one. All changes of all keys have one order, the same on every
    /// node.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # async fn switch(node: Node) -> Result<()> {
    /// let version = node.set_cluster_wide("feature", true).await?;
    /// assert_eq!(node.get_cluster_wide("feature")?, Some(true));
    /// println!("everybody has it who has version {version}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConfigFailure::Call`] with `NoQuorum`: no majority answers; surely nothing changed, and nothing will by this. With
    /// `Timeout`: a leader was asked, and what became of it is not known; it may be carried out yet. To try again without
    /// harm read the key, and use [`Node::compare_and_set_cluster_wide`] with the version that is there.
    pub fn set_cluster_wide<T: Serialize>(
        &self,
        key: &str,
        value: T,
    ) -> impl Future<Output = Result<ConfigVersion>> + Send + use<T> {
        let written = written(&value);
        drop(value);
        self.change(key, Expected::Anything, Some(written))
    }

    /// The same, if what is expected is there: of all who try the same at once, one succeeds.
    ///
    /// # Errors
    /// As [`Node::set_cluster_wide`]; [`ConfigFailure::Refused`] with the version that is there, and nothing changed.
    pub fn compare_and_set_cluster_wide<T: Serialize>(
        &self,
        key: &str,
        expected: Expected,
        value: T,
    ) -> impl Future<Output = Result<ConfigVersion>> + Send + use<T> {
        let written = written(&value);
        drop(value);
        self.change(key, expected, Some(written))
    }

    /// Removes a key. Where there is none nothing changes. Answers a version at which nothing is there.
    ///
    /// # Errors
    /// As [`Node::set_cluster_wide`].
    pub fn delete_cluster_wide(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<ConfigVersion>> + Send + use<> {
        self.change(key, Expected::Anything, None)
    }

    /// The value under a key, as this node knows it: a local read, which never waits. `None`: there is none.
    ///
    /// # Errors
    /// It is of another type.
    pub fn get_cluster_wide<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.runtime().configuration().look(key, |entry| entry.map(read).transpose())
    }

    /// The same as it is kept, with the change that put it there.
    pub fn config_value(&self, key: &str) -> Option<ConfigValue> {
        self.runtime().configuration().get(key).map(ConfigValue)
    }

    /// All keys that begin so, with their values, in the order of the keys' bytes.
    pub fn config_values(&self, prefix: &str) -> Vec<(String, ConfigValue)> {
        let view = self.runtime().configuration().view();
        let all = view.all().under(prefix);
        all.map(|(key, entry)| (key.as_str().to_owned(), ConfigValue(entry.clone()))).collect()
    }

    /// The last change that this node knows. Zero: there was none yet.
    pub fn config_version(&self) -> ConfigVersion {
        self.runtime().configuration().version()
    }

    /// Waits until this node knows this change. There is no deadline: a node that is cut off waits until it is not.
    ///
    /// # Errors
    /// When the node stops meanwhile.
    pub async fn await_cluster_wide(&self, version: ConfigVersion) -> Result<()> {
        tokio::select! {
            () = self.runtime().configuration().reached(version) => Ok(()),
            ended = self.ended() => ended.and(Err(crate::Error::Stopped)),
        }
    }

    /// Every change of keys that begin so: first what is there, in the order in which it came, then each change once, in
    /// order, also over changes of the leader. One that is slow holds up nobody, and is told how much it missed.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # use tumen::ConfigEvent;
    /// # async fn follow(node: Node) -> Result<()> {
    /// let mut changes = node.watch_cluster_wide("limits/");
    /// while let Some(event) = changes.next().await {
    ///     match event {
    ///         ConfigEvent::Updated { key, value: Some(value), .. } => println!("{key} is {}", value.read::<u32>()?),
    ///         ConfigEvent::Updated { key, value: None, .. } => println!("{key} is gone"),
    ///         ConfigEvent::Missed { count } => println!("{count} changes went by unheard"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_cluster_wide(&self, prefix: impl Into<String>) -> Subscription<ConfigEvent> {
        self.events_of(self.runtime().configuration().watch(prefix.into()))
    }

    /// The same for who heard of all changes up to this one.
    pub(crate) fn watch_cluster_wide_after(
        &self,
        prefix: String,
        seen: ConfigVersion,
    ) -> Subscription<ConfigEvent> {
        self.events_of(self.runtime().configuration().watch_after(prefix, seen))
    }

    /// A write that was made elsewhere.
    pub(crate) async fn write_cluster_wide(
        &self,
        key: &str,
        expected: Expected,
        value: Option<Json>,
    ) -> Result<Written> {
        let key = Key::new(key).map_err(ConfigFailure::from)?;
        Ok(self.runtime().configure(key, expected, value, self.config().call_deadline).await?)
    }

    fn change(
        &self,
        key: &str,
        expected: Expected,
        value: Option<Result<Json, ConfigFailure>>,
    ) -> impl Future<Output = Result<ConfigVersion>> + Send + use<> {
        let (node, key, within): (_, _, Duration) =
            (self.clone(), key.to_owned(), self.config().call_deadline);
        async move {
            let key = Key::new(&key).map_err(ConfigFailure::from)?;
            let written = node.runtime().configure(key, expected, value.transpose()?, within).await?;
            Ok(written.version)
        }
    }

    fn events_of(&self, watch: ConfigWatch) -> Subscription<ConfigEvent> {
        let heard = Vec::new().into_iter();
        Subscription::new(stream::unfold(
            (self.clone(), watch, heard),
            |(node, mut watch, mut heard)| async move {
                loop {
                    if let Some(news) = heard.next() {
                        return Some((event(news), (node, watch, heard)));
                    }
                    heard = tokio::select! {
                        biased;
                        heard = watch.next() => heard.into_iter(),
                        _ = node.ended() => return None,
                    };
                }
            },
        ))
    }
}

fn event(news: configuration::News) -> ConfigEvent {
    match news {
        configuration::News::Changed { version, key, value } => ConfigEvent::Updated {
            version,
            key: key.as_str().to_owned(),
            value: value.map(|value| ConfigValue(Entry { version, value })),
        },
        configuration::News::Missed { count } => ConfigEvent::Missed { count },
    }
}

impl News for ConfigEvent {}

impl sealed::Source for ConfigEvent {
    fn subscribe(node: &Node) -> Subscription<Self> {
        node.watch_cluster_wide("")
    }
}

impl News for Reported {}

impl sealed::Source for Reported {
    fn subscribe(node: &Node) -> Subscription<Self> {
        let reports = node.runtime().control_reports(REPORTS_LEN);
        Subscription::new(stream::unfold(reports, |mut reports| async move {
            loop {
                // Reports that were missed are missed: they decide nothing.
                let pubsub::News::Said(message) = reports.recv().await? else { continue };
                if let Some(report) = ControlReport::read(&message) {
                    return Some((Reported { by: message.publisher, report }, reports));
                }
            }
        }))
    }
}
