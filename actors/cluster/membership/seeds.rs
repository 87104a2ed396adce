//! By which addresses a node finds others: a list, something that is asked for one again and again, or both.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// The most addresses that are dialled; more are left out, and logged.
pub const SEEDS_MAX: usize = 1024;

/// Finds addresses of cluster ports, as `host:port`. An empty answer changes nothing: what it said before holds.
pub type Discover = Arc<dyn Fn() -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// Says whether a node that knows others is as good as alone.
pub type StillAlone = Arc<dyn Fn() -> bool + Send + Sync>;

/// The wait after the first look of a node that is alone, and the longest.
const ALONE_WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where a node looks for others.
#[derive(Clone)]
pub struct Seeds {
    /// Addresses of cluster ports, as `host:port`. One that nobody answers at is tried for ever, after ever longer waits.
    pub fixed: Vec<String>,
    /// Finds more, for as long as the node runs.
    pub discover: Option<Discover>,
    /// How often it is asked, and how often addresses that led to nobody in the view are tried again. Default 30 s.
    /// While the node is alone it is asked after 50 ms, then after ever longer waits, up to 2 s, if that is more often.
    pub refresh: Duration,
    /// Whether a node that knows others is as good as alone: they may all be looking for the same founder, and must go on.
    /// `None`: it never is.
    pub still_alone: Option<StillAlone>,
}

impl Seeds {
    /// These addresses, and nothing else.
    pub fn fixed<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Self {
        let fixed = addresses.into_iter().map(Into::into).collect();
        Self { fixed, discover: None, refresh: Duration::from_secs(30), still_alone: None }
    }

    /// Whatever `discover` finds.
    pub fn discovered(discover: Discover) -> Self {
        Self { discover: Some(discover), ..Self::fixed::<String>([]) }
    }

    /// All addresses that these names, as `host:port`, have in the domain name system.
    pub fn dns(names: Vec<String>) -> Self {
        Self::discovered(Arc::new(move || Box::pin(look_up(names.clone()))))
    }

    /// The same, with these addresses too.
    #[must_use]
    pub fn and_fixed<A: Into<String>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.fixed.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// How long until the next look; `looks_alone` are the looks since the node was not alone, if it is.
    pub(super) fn wait(&self, looks_alone: Option<u32>) -> Duration {
        let (first, longest) = ALONE_WAITS;
        let wait = match looks_alone {
            Some(looks) => (first * 2_u32.pow(looks.min(16))).min(longest).min(self.refresh),
            None => self.refresh,
        };
        wait.max(Duration::from_millis(10))
    }

    /// All addresses, those found included, without this node's own.
    pub(super) fn addresses(&self, found: &[String], own: &str) -> BTreeSet<String> {
        let all: BTreeSet<_> =
            self.fixed.iter().chain(found).filter(|address| *address != own).cloned().collect();
        if all.len() > SEEDS_MAX {
            tracing::warn!(count = all.len(), "more seeds than {SEEDS_MAX}: the rest is left out");
        }
        all.into_iter().take(SEEDS_MAX).collect()
    }
}

impl Default for Seeds {
    fn default() -> Self {
        Self::fixed::<String>([])
    }
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seeds")
            .field("fixed", &self.fixed)
            .field("discovers", &self.discover.is_some())
            .field("refresh", &self.refresh)
            .finish()
    }
}

async fn look_up(names: Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        match tokio::net::lookup_host(&name).await {
            Ok(addresses) => found.extend(addresses.map(|address| address.to_string())),
            Err(error) => tracing::warn!(%name, %error, "a seed's name has no address"),
        }
    }
    found
}
