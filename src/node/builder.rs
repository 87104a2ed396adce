//! What is said about a node before it starts: its knobs, its workers, its strategy.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorCell;
use tumen_actors::names::conflicts::Resolver;
use tumen_actors::node::Discover;
use tumen_actors::partitions::Place;
use tumen_core::assignment::{AssignError, Layout, Problem, Strategy};
use tumen_core::cluster::coordinator::{CrashProof, Create, Rebalance};
use tumen_core::cluster::sides::Consistency;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitioner::Partitioner;

use super::Node;
use super::events::{Callbacks, Told};
use super::singletons::Singleton;
use crate::config::{Config, Layer, Source, Value};
use crate::error::{Error, Result};
use crate::kv::Kv;
use crate::names::echo::Echo;
use crate::names::{
    self, Child, ChildError, ChildSpec, Conflict, HostedChild, Name, Placement, Receives, Rule, Winner,
};
use crate::worker::{Handlers, Hosting, Replicated, Worker, hosting, replicating};

/// A node that is not started yet. Made by [`Node::builder`].
///
/// Nothing is checked before [`Builder::start`], which then tells all that is wrong at once.
#[must_use = "a builder does nothing until it is started"]
pub struct Builder<C = Knobs> {
    config: C,
    kinds: Vec<Hosting>,
    strategies: Vec<Arc<dyn Strategy>>,
    children: Children,
    surroundings: Surroundings,
}

/// The kinds of children that a node has factories for, the singletons that it wants to be run, and how nodes are chosen.
#[derive(Debug)]
pub(super) struct Children {
    pub(super) kinds: Vec<Result<HostedChild, ChildError>>,
    pub(super) singletons: Vec<Result<Singleton>>,
    pub(super) placements: Placements,
    pub(super) resolver: Option<Resolver>,
}

/// The placements of the user's own, each with its name as it was given.
#[derive(Default)]
pub(super) struct Placements(pub(super) Vec<(String, Arc<dyn Placement>)>);

impl fmt::Debug for Placements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Children {
    const NONE: Self = Self {
        kinds: Vec::new(),
        singletons: Vec::new(),
        placements: Placements(Vec::new()),
        resolver: None,
    };
}

/// What stands around a node in its process.
pub(super) struct Surroundings {
    pub(super) discover: Option<Discover>,
    pub(super) supervisor: Option<ActorCell>,
    pub(super) listeners: Callbacks,
}

impl Surroundings {
    /// Nothing but what the configuration says.
    const NONE: Self = Self { discover: None, supervisor: None, listeners: Callbacks(Vec::new()) };
}

/// What code says about a node's knobs, and which other sources are asked.
#[derive(Debug)]
pub struct Knobs {
    code: Layer,
    others: Vec<Layer>,
}

/// Methods that say one knob each.
macro_rules! says {
    ($($name:ident($type:ty) $text:expr;)*) => {$(
        #[doc = concat!("See [`Config::", stringify!($name), "`].")]
        pub fn $name(self, value: $type) -> Self {
            let text: fn($type) -> String = $text;
            self.say(stringify!($name), text(value))
        }
    )*};
}

impl Builder {
    pub(super) fn new(cluster: String, name: String) -> Self {
        let config = Knobs { code: Layer::new(Source::Builder), others: Vec::new() };
        let (children, surroundings) = (Children::NONE, Surroundings::NONE);
        let builder = Self { config, kinds: Vec::new(), strategies: Vec::new(), children, surroundings };
        builder.say("cluster", cluster).say("name", name)
    }

    /// Where the cluster port listens, such as `10.0.0.1:7100`. See [`Config::listen`].
    pub fn listen(self, address: impl Into<String>) -> Self {
        self.say("listen", address.into())
    }

    /// Where HTTP listens, such as `127.0.0.1:8080`; nowhere if nothing is said. See [`Config::http`].
    pub fn http(self, address: impl Into<String>) -> Self {
        self.say("http", address.into())
    }

    /// Nodes to join by: `HOST:PORT` of cluster ports, or `http://HOST:PORT`. See [`Config::join`].
    pub fn join<S: Into<String>>(self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.say_all("join", seeds)
    }

    /// HTTP interfaces of nodes to join by; the node's own may be among them. See [`Config::known_nodes`].
    pub fn known_nodes<S: Into<String>>(self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.say_all("known_nodes", seeds)
    }

    /// The directory for what must survive a restart. See [`Config::data_dir`].
    pub fn data_dir(self, path: impl AsRef<Path>) -> Self {
        self.say("data_dir", path.as_ref().display().to_string())
    }

    /// The file of the secret that all nodes of the cluster share. See [`Config::cookie_file`].
    pub fn cookie_file(self, path: impl AsRef<Path>) -> Self {
        self.say("cookie_file", path.as_ref().display().to_string())
    }

    /// The secret that all nodes of the cluster share. See [`Config::cookie`].
    pub fn cookie(self, secret: impl Into<String>) -> Self {
        self.say("cookie", secret.into())
    }

    /// What HTTP requests must show. See [`Config::http_token`].
    pub fn http_token(self, secret: impl Into<String>) -> Self {
        self.say("http_token", secret.into())
    }

    /// The node's failure domain. See [`Config::zone`].
    pub fn zone(self, zone: impl Into<String>) -> Self {
        self.say("zone", zone.into())
    }

    /// A strategy from the box: `balanced`, `rotation`, `consistent-hash` or `rendezvous`. See [`Config::strategy`].
    pub fn strategy(self, name: impl Into<String>) -> Self {
        self.say("strategy", name.into())
    }

    /// Places the copies by a strategy of your own. All nodes of the cluster need it: any of them may lead.
    ///
    /// A map that breaks the rules, such as two copies on one node, is refused and the one in force stays.
    pub fn own_strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        let name = strategy.name().to_owned();
        self.config.code.bring_strategy(&name);
        self.strategies.push(Arc::new(strategy));
        self.say("strategy", name)
    }

    says! {
        weight(u32) |n| n.show();
        partitions(u32) |n| n.show();
        replication(u32) |n| n.show();
        mode(Mode) |mode| mode.show();
        consistency(Consistency) |first| first.show();
        conflicts(Rule) |rule| rule.show();
        partitioner(Partitioner) |partitioner| partitioner.show();
        bootstrap_expect(u32) |n| n.show();
        min_nodes(u32) |n| n.show();
        create(Create) |when| when.show();
        rebalance(Rebalance) |when| when.show();
        rebuild_after(Duration) |time| time.show();
        rejoin_grace(Duration) |time| time.show();
        lease(Duration) |time| time.show();
        crash_proof(CrashProof) |proof| proof.show();
        call_deadline(Duration) |time| time.show();
        start_deadline(Duration) |time| time.show();
        stop_deadline(Duration) |time| time.show();
        health_interval(Duration) |time| time.show();
    }

    /// Says any knob as text, named as in the configuration file: `.set("heartbeat", "20ms")`.
    ///
    /// # Panics
    /// If there is no knob of that name: [`KNOBS`](crate::config::KNOBS) lists them.
    pub fn set(self, knob: &str, value: impl Into<String>) -> Self {
        self.say(knob, value.into())
    }

    /// Asks a TOML file too. It overrules what code says.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.config.others.push(Layer::file(path.as_ref()));
        self
    }

    /// Asks the environment too: `NODE_ID`, `HTTP_ADDR`, `KNOWN_NODES`, and `TUMEN_…` for every knob. It overrules what
    /// code and file say.
    pub fn env(mut self) -> Self {
        self.config.others.push(Layer::env(std::env::vars_os()));
        self
    }

    fn say(mut self, knob: &str, text: String) -> Self {
        self.config.code.say(knob, &[text]);
        self
    }

    fn say_all<S: Into<String>>(mut self, knob: &str, texts: impl IntoIterator<Item = S>) -> Self {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        self.config.code.say(knob, &texts);
        self
    }

    /// Starts the node: binds its ports, joins or founds its cluster, serves what it is given. It is not waited for others:
    /// see [`Node::ready`].
    ///
    /// # Errors
    /// All that is wrong with the configuration, at once; a port that is in use; a second node in one process. Nothing
    /// runs then.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self) -> Result<Node> {
        let Self { config: Knobs { code, others }, kinds, strategies, children, surroundings } = self;
        let config = Config::resolve(std::iter::once(code).chain(others))?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        Builder { config, kinds, strategies, children, surroundings }.start().await
    }
}

impl Builder<Config> {
    pub(super) const fn configured(config: Config) -> Self {
        Self {
            config,
            kinds: Vec::new(),
            strategies: Vec::new(),
            children: Children::NONE,
            surroundings: Surroundings::NONE,
        }
    }

    /// Starts the node; see [`Builder::start`]. The configuration's warnings were logged by whoever resolved it.
    ///
    /// # Errors
    /// A port that is in use; a second node in one process. Nothing runs then.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self) -> Result<Node> {
        let kinds = self.kinds.into_iter().collect::<Result<Vec<_>, _>>()?;
        super::start::start(self.config, kinds, self.strategies, self.children, self.surroundings).await
    }
}

impl<C> Builder<C> {
    /// Hosts a kind of worker. Each partition's begins as the default value.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Add { n: u32 }
    /// # impl Message for Add { type Reply = u32; }
    /// # #[derive(Default)]
    /// # struct Counter(u32);
    /// # impl Worker for Counter { const KIND: &'static str = "counter"; }
    /// # impl Handle<Add> for Counter {
    /// #     async fn handle(&mut self, add: Add, _: &mut Context<Self>) -> Result<u32> { Ok(add.n) }
    /// # }
    /// Node::builder("shop", "node-1").worker::<Counter>(|w| w.handles::<Add>());
    /// ```
    pub fn worker<W: Worker + Default>(self, handlers: impl FnOnce(Handlers<W>) -> Handlers<W>) -> Self {
        self.worker_with(|_| async { Ok(W::default()) }, handlers)
    }

    /// Hosts a kind of worker that is told where it runs, and may take its time or fail. A start that fails is tried
    /// again, later and later.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # struct Counter(u32);
    /// # impl Worker for Counter { const KIND: &'static str = "counter"; }
    /// Node::builder("shop", "node-1").worker_with(|place| async move { Ok(Counter(place.partition().index)) }, |w| w);
    /// ```
    pub fn worker_with<W, S, F>(mut self, start: S, handlers: impl FnOnce(Handlers<W>) -> Handlers<W>) -> Self
    where
        W: Worker,
        S: Fn(Place) -> F + Send + Sync + 'static,
        F: Future<Output = Result<W>> + Send + 'static,
    {
        self.kinds.push(hosting(start, handlers));
        self
    }

    /// Hosts a kind of worker whose state is kept on all copies of its partition. Each begins as the default value.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Add { n: u32 }
    /// # impl Message for Add { type Reply = u32; }
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Counter(u32);
    /// # impl Worker for Counter { const KIND: &'static str = "counter"; }
    /// # impl Replicated for Counter { type Change = u32; fn apply(&mut self, n: u32) { self.0 = n; } }
    /// # impl Handle<Add> for Counter {
    /// #     async fn handle(&mut self, add: Add, _: &mut Context<Self>) -> Result<u32> { Ok(add.n) }
    /// # }
    /// Node::builder("shop", "node-1").replicated::<Counter>(|w| w.handles::<Add>());
    /// ```
    pub fn replicated<W: Replicated>(mut self, handlers: impl FnOnce(Handlers<W>) -> Handlers<W>) -> Self {
        self.kinds.push(replicating(handlers));
        self
    }

    /// Makes this node one that can run children of the kind `K`, and says what they receive. Who starts one, under which name, is
    /// another matter: see [`Node::start_child`] and [`Builder::singleton`].
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Charge { cents: u64 }
    /// # impl Message for Charge { type Reply = u64; }
    /// # struct Billing;
    /// # impl Child for Billing {
    /// #     const KIND: &'static str = "billing";
    /// #     type Args = String;
    /// #     async fn start(_: String, _: &mut ChildContext<Self>) -> Result<Self> { Ok(Self) }
    /// # }
    /// # impl Receive<Charge> for Billing {
    /// #     async fn receive(&mut self, charge: Charge, _: &mut ChildContext<Self>) -> Result<u64> { Ok(charge.cents) }
    /// # }
    /// Node::builder("shop", "node-1")
    ///     .child::<Billing>(|c| c.receives::<Charge>())
    ///     .singleton::<Billing>("billing", "EUR".into());
    /// ```
    pub fn child<K: Child>(mut self, receives: impl FnOnce(Receives<K>) -> Receives<K>) -> Self {
        self.children.kinds.push(names::hosting(receives));
        self
    }

    /// Has the cluster run a child of the kind `K` under this name as long as this node runs, always one of it: the node asks
    /// for it once it is ready, and again, later and later, where it could not be started or was given up. All nodes may say
    /// it. One that is terminated stays so until a node that says it is started again.
    ///
    /// A name or arguments that cannot be taken are told by [`Builder::start`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what a child is started with is given away, as to a node"
    )]
    pub fn singleton<K: Child>(mut self, name: impl AsRef<[u8]>, args: K::Args) -> Self {
        let singleton = Name::new(name).map_err(Error::from).and_then(|name| {
            let (spec, _) = ChildSpec::new().of_child::<K>(&args)?;
            Ok(Singleton { name, spec })
        });
        self.children.singletons.push(singleton);
        self
    }

    /// Gives this node a placement of your own: a child whose specification asks for it by this name
    /// ([`ChildSpec::placed_by`](crate::ChildSpec::placed_by)) runs where it says.
    ///
    /// It is asked on the node that leads the directory of the child's name, which may be any: so all nodes should have it. Where that
    /// node has none of that name, or it panics, or chooses what is not there, a start is refused and nothing is tracked; a child that
    /// runs already stays where it is, and where it has to go it is placed by its name. It must neither wait nor take long. A name
    /// that cannot be taken is told by [`Builder::start`].
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// use tumen::names::{Choice, Placement};
    ///
    /// /// The one of these nodes that comes first by name.
    /// struct First;
    ///
    /// impl Placement for First {
    ///     fn pick(&self, choice: &Choice<'_>) -> Option<usize> {
    ///         (!choice.candidates.is_empty()).then_some(0)
    ///     }
    /// }
    ///
    /// Node::builder("shop", "node-1").placement("first", First);
    /// ```
    pub fn placement(mut self, name: impl Into<String>, placement: impl Placement) -> Self {
        self.children.placements.0.push((name.into(), Arc::new(placement)));
        self
    }

    /// Says who keeps a name that two sides of a cluster gave to somebody each, where
    /// [`Config::consistency`](crate::config::Config) is `available`; without it [`Config::conflicts`](crate::config::Config)
    /// does. It is asked on the node that leads the name's directory, which may be any: so all nodes should say the same. It must
    /// neither wait nor take long. Where it panics, that is logged, and an actor's name is free, which harms neither of the two; a
    /// child has no life without its name, and the one on the side that stays keeps it.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// use tumen::names::Winner;
    /// use tumen::Consistency;
    ///
    /// // Of two the one that says more of itself.
    /// Node::builder("shop", "node-1").consistency(Consistency::Available).resolve_conflicts(|conflict| {
    ///     let longer = conflict.comes.value.len() > conflict.here.value.len();
    ///     if longer { Winner::Comes } else { Winner::Here }
    /// });
    /// ```
    pub fn resolve_conflicts(mut self, decide: impl Fn(&Conflict) -> Winner + Send + Sync + 'static) -> Self {
        self.children.resolver = Some(Resolver::new(decide));
        self
    }

    /// Finds other nodes to join by: whenever the node looks for some, which it does every 30 s, and more often while it is
    /// alone. The answer is addresses of cluster ports, as `host:port`; an empty one changes nothing. It adds to
    /// [`Builder::join`] and [`Builder::known_nodes`], and a node that has it founds no cluster, as if it were told of seeds.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// async fn ask_the_directory() -> Vec<String> {
    ///     vec!["10.0.0.1:7100".into(), "10.0.0.2:7100".into()]
    /// }
    /// Node::builder("shop", "node-1").discover(ask_the_directory);
    /// ```
    pub fn discover<D, F>(mut self, find: D) -> Self
    where
        D: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Vec<String>> + Send + 'static,
    {
        self.surroundings.discover = Some(Arc::new(move || Box::pin(find())));
        self
    }

    /// Has this called with each event of the node, from its first on: who joined, came back and left, what moved and why,
    /// health, leaders, configuration, and what happens to names and children. Several may be given.
    ///
    /// Each has a thread of its own and may block it: nobody waits for it. Where it is so slow that events are not kept any
    /// more (4,096 at least), it is told how many it missed. If it panics, that is logged, and it is told the next one.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// use tumen::Event;
    ///
    /// Node::builder("shop", "node-1").on_event(|told| {
    ///     if let Event::NodeDown { node, reason, .. } = &told.event {
    ///         println!("{node} is down: {reason}");
    ///     }
    /// });
    /// ```
    pub fn on_event(mut self, call: impl FnMut(&Told) + Send + 'static) -> Self {
        self.surroundings.listeners.0.push(Box::new(call));
        self
    }

    /// Puts the node under an actor of your own: that one is told, as of any child, when the node's actors end, be it that
    /// it stopped or that it cannot go on; and if that one ends, they end with it. A node that ended is started anew by
    /// building it again.
    pub fn under(mut self, supervisor: ActorCell) -> Self {
        self.surroundings.supervisor = Some(supervisor);
        self
    }

    /// Hosts the built-in worker [`kv`](crate::kv), which `PUT`, `GET` and `DELETE /kv/{key}` speak to.
    pub fn kv(self) -> Self {
        self.replicated::<Kv>(Kv::handlers)
    }

    /// Can run children of the built-in kind [`echo`](crate::names::echo), which `POST /children/{name}/echo` speaks to.
    pub fn echo(self) -> Self {
        self.child::<Echo>(Echo::receives)
    }
}

impl<C: fmt::Debug> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("kinds", &self.kinds)
            .field("children", &self.children.kinds)
            .finish_non_exhaustive()
    }
}

/// A user's strategy, as often as the runtime needs it.
pub(super) struct Shared(pub(super) Arc<dyn Strategy>);

impl Strategy for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
        self.0.assign(problem)
    }
}
