//! The cluster's own configuration as this node has it: read without waiting, from wherever it comes first.
//!
//! ```text
//!  own Raft ────────┐
//!  topic `config` ──┼─▶ ConfigStore ─▶ get · list · watch · await a version
//!  pulled ──────────┘    the next change, or a newer whole
//! ```

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tumen_core::cluster::configuration::{Change, Configuration, Entry, Followed, Key, News, Watcher};
use tumen_core::ids::{ClusterId, ConfigVersion};
use tumen_core::wire::stable_hash;

/// The configuration that this node knows. Cheap to clone; all clones show the same.
#[derive(Clone, Default)]
pub struct ConfigStore {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    view: ArcSwap<View>,
    /// The stamp of that view; told after it is there.
    stamp: AtomicU64,
    /// Which cluster's it is, and how far; told after the view is there.
    newest: watch::Sender<(Option<ClusterId>, ConfigVersion)>,
    /// Held by whoever makes the next view.
    turn: Mutex<()>,
}

/// The configuration at one moment.
#[derive(Clone, Default)]
pub struct View {
    /// No other view of this process has it, but for zero: those are of no cluster, and all the same.
    stamp: u64,
    /// The cluster that it is of. `None`: this node was told nothing yet.
    cluster: Option<ClusterId>,
    all: Arc<Configuration>,
    /// The same by key, for reading only.
    by_key: HashMap<Key, Entry, BuildHasherDefault<KeyHasher>>,
}

/// The next view's stamp.
static STAMPS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The view that this thread looked at last: whether it is still the newest is one load, where taking the newest is two
    /// exchanges that others wait for. It is kept until the thread looks again, or ends.
    static SEEN: Cell<Option<Arc<View>>> = const { Cell::new(None) };
}

impl ConfigStore {
    /// What is under a key. Never waits.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.look(key, |entry| entry.cloned())
    }

    /// Looks at what is under a key, without keeping it. Never waits.
    pub fn look<R>(&self, key: &str, look: impl FnOnce(Option<&Entry>) -> R) -> R {
        // Whoever looks from within a look finds nothing here, nor does a thread that ends: they take the newest.
        let seen = SEEN.try_with(Cell::take).unwrap_or_default();
        let newest = self.shared.stamp.load(Ordering::Acquire);
        let view = seen.filter(|seen| seen.stamp == newest).unwrap_or_else(|| self.shared.view.load_full());
        let looked = look(view.by_key.get(key));
        // Where it cannot be kept the next look takes it again.
        let _ = SEEN.try_with(|seen| seen.set(Some(view)));
        looked
    }

    /// All of it at this moment.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.shared.view.load()
    }

    /// The number of the last change that this node knows; zero before the first.
    pub fn version(&self) -> ConfigVersion {
        self.shared.view.load().all.version()
    }

    /// The cluster that it is of. `None`: this node was told nothing yet.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.shared.view.load().cluster
    }

    /// Waits until this node knows this change, of whatever cluster it is in by then.
    pub async fn reached(&self, version: ConfigVersion) {
        let mut newest = self.shared.newest.subscribe();
        // The sender is here: it does not go while this waits.
        drop(newest.wait_for(|(_, known)| *known >= version).await);
    }

    /// Takes all of it, if it is newer. Says whether it was, or is the first that this node was told.
    pub fn take(&self, cluster: ClusterId, all: &Arc<Configuration>) -> bool {
        let _turn = self.turn();
        let view = self.shared.view.load();
        let newer = view.all.version() < all.version();
        if view.cluster.is_some_and(|known| known != cluster || !newer) {
            return false;
        }
        self.show(cluster, Arc::clone(all));
        true
    }

    /// Takes those of the changes that come next, in order. What became of the last of them.
    pub fn follow(&self, cluster: ClusterId, changes: &[Change]) -> Followed {
        let _turn = self.turn();
        let view = self.shared.view.load();
        if view.cluster.is_some_and(|known| known != cluster) {
            return Followed::Known;
        }
        let known = view.all.version();
        let mut next = None;
        let mut last = Followed::Known;
        for change in changes.iter().filter(|change| change.version > known) {
            last = next.get_or_insert_with(|| Configuration::clone(&view.all)).follow(change);
            if last == Followed::Gap {
                break;
            }
        }
        if let Some(next) = next.filter(|next| next.version() > known || view.cluster.is_none()) {
            self.show(cluster, Arc::new(next));
        }
        last
    }

    /// Nothing is the whole of it: said where a cluster has no configuration yet.
    pub fn take_empty(&self, cluster: ClusterId) {
        self.take(cluster, &Arc::default());
    }

    /// Forgets all of it: this node leaves the cluster that it was in.
    pub fn clear(&self) {
        let _turn = self.turn();
        self.put(View::default());
        self.shared.newest.send_replace((None, ConfigVersion::ZERO));
    }

    /// One who wants each change under keys that begin so: what is there first.
    pub fn watch(&self, prefix: String) -> ConfigWatch {
        self.watched_by(Watcher::new(prefix))
    }

    /// The same for one who heard of all changes up to this one.
    pub fn watch_after(&self, prefix: String, seen: ConfigVersion) -> ConfigWatch {
        self.watched_by(Watcher::after(prefix, seen))
    }

    fn watched_by(&self, watcher: Watcher) -> ConfigWatch {
        ConfigWatch { store: self.clone(), newest: self.shared.newest.subscribe(), cluster: None, watcher }
    }

    fn show(&self, cluster: ClusterId, all: Arc<Configuration>) {
        let version = all.version();
        let by_key = all.under("").map(|(key, entry)| (key.clone(), entry.clone())).collect();
        let stamp = STAMPS.fetch_add(1, Ordering::Relaxed);
        self.put(View { stamp, cluster: Some(cluster), all, by_key });
        self.shared.newest.send_replace((Some(cluster), version));
    }

    fn put(&self, view: View) {
        let stamp = view.stamp;
        self.shared.view.store(Arc::new(view));
        self.shared.stamp.store(stamp, Ordering::Release);
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, ()> {
        // Nothing is guarded but the order in which views are made.
        self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ConfigStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cluster, version) = *self.shared.newest.borrow();
        f.debug_struct("ConfigStore").field("cluster", &cluster).field("version", &version).finish()
    }
}

impl View {
    /// All of it, in order.
    pub const fn all(&self) -> &Arc<Configuration> {
        &self.all
    }

    /// The cluster that it is of. `None`: this node was told nothing yet.
    pub const fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }
}

/// Hears of every change under some keys, for as long as it is held. It keeps its place only: one that is slow holds up nobody.
#[derive(Debug)]
pub struct ConfigWatch {
    store: ConfigStore,
    newest: watch::Receiver<(Option<ClusterId>, ConfigVersion)>,
    /// Whose changes it heard last.
    cluster: Option<ClusterId>,
    watcher: Watcher,
}

impl ConfigWatch {
    /// Waits until there is something to hear, and hears all of it, in order. Losing this future loses nothing.
    pub async fn next(&mut self) -> Vec<News> {
        loop {
            let heard = self.try_next();
            if !heard.is_empty() {
                return heard;
            }
            // The sender is here: it does not go while this waits.
            drop(self.newest.changed().await);
        }
    }

    /// What there is to hear by now.
    pub fn try_next(&mut self) -> Vec<News> {
        self.newest.mark_unchanged();
        let view = self.store.view();
        let Some(cluster) = view.cluster else { return Vec::new() };
        if self.cluster.replace(cluster).is_some_and(|known| known != cluster) {
            self.watcher.begin_anew();
        }
        self.watcher.hear(&view.all)
    }
}

/// XXH3 of a key, at once: what a map's own hasher does about keys from strangers is not needed here.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= stable_hash(bytes);
    }

    fn write_u8(&mut self, _: u8) {
        // Which text is hashed ends where it ends: there is no other one behind it.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::cluster::configuration::{Expected, Json, Write};

    use super::*;

    const HERE: ClusterId = ClusterId(1);
    const THERE: ClusterId = ClusterId(2);

    fn write(all: &mut Configuration, id: u64, key: &str) {
        let (key, value) = (Key::new(key).unwrap(), Some(Json::new(&id.to_string()).unwrap()));
        let (known, expected) = (all.version(), Expected::Anything);
        all.write(&Write { id, known, key, expected, value }).unwrap();
    }

    fn changes(all: &Configuration) -> Vec<Change> {
        all.changes_since(ConfigVersion::ZERO).unwrap().cloned().collect()
    }

    #[test]
    fn what_comes_late_twice_or_from_another_cluster_changes_nothing() {
        let (store, mut all) = (ConfigStore::default(), Configuration::default());
        assert_eq!((store.cluster(), store.version()), (None, ConfigVersion::ZERO));
        write(&mut all, 1, "a");
        let old = Arc::new(all.clone());
        write(&mut all, 2, "b");
        write(&mut all, 3, "a");
        let told = changes(&all);
        assert_eq!(store.follow(HERE, &told[1..]), Followed::Gap);
        assert_eq!(store.follow(HERE, &told[..1]), Followed::Taken);
        assert!(!store.take(HERE, &old), "it is known");
        assert_eq!(store.follow(THERE, &told), Followed::Known);
        assert!(!store.take(THERE, &Arc::new(all.clone())), "another cluster's");
        assert_eq!(store.follow(HERE, &told), Followed::Taken);
        assert_eq!(store.follow(HERE, &told), Followed::Known);
        assert_eq!(**store.view().all(), all);
        assert_eq!(store.get("a").unwrap().value.as_str(), "3");
        assert!(store.look("c", |entry| entry.is_none()));
        store.clear();
        assert_eq!((store.cluster(), store.get("a")), (None, None));
        store.take_empty(THERE);
        assert_eq!((store.cluster(), store.version()), (Some(THERE), ConfigVersion::ZERO));
    }

    #[test]
    fn whoever_looks_sees_the_newest_of_the_store_that_is_asked() {
        let (one, other) = (ConfigStore::default(), ConfigStore::default());
        let mut all = Configuration::default();
        for id in 1..=100 {
            write(&mut all, id, "a");
            one.take(HERE, &Arc::new(all.clone()));
            let expected = id.to_string();
            assert_eq!(one.get("a").unwrap().value.as_str(), expected);
            assert_eq!(other.get("a"), None, "it was told nothing");
            let within = one.look("b", |none| (none.is_none(), one.get("a"), other.get("a")));
            assert_eq!((within.0, within.1.unwrap().value.as_str(), within.2), (true, &*expected, None));
            let elsewhere = one.clone();
            let seen = std::thread::spawn(move || elsewhere.get("a").map(|entry| entry.version));
            assert_eq!(seen.join().unwrap(), Some(ConfigVersion(id)));
        }
        one.clear();
        assert_eq!(one.get("a"), None);
    }

    #[tokio::test]
    async fn a_watch_goes_on_over_another_cluster() {
        let (store, mut all) = (ConfigStore::default(), Configuration::default());
        let mut watch = store.watch("a".into());
        assert!(watch.try_next().is_empty());
        write(&mut all, 1, "a");
        write(&mut all, 2, "b");
        store.take(HERE, &Arc::new(all.clone()));
        assert_eq!(watch.next().await.len(), 1);
        store.reached(ConfigVersion(2)).await;
        write(&mut all, 3, "ab");
        store.take(HERE, &Arc::new(all.clone()));
        assert_eq!((watch.next().await.len(), watch.try_next()), (1, Vec::new()));
        store.clear();
        let mut other = Configuration::default();
        write(&mut other, 9, "a");
        store.take(THERE, &Arc::new(other));
        let heard = watch.next().await;
        assert!(matches!(&heard[..], [News::Changed { version: ConfigVersion(1), .. }]), "{heard:?}");
    }
}
