//! One directory, its log and mark; some nodes with what they run; plans; and a network.

mod clients;
mod network;
mod nodes;
mod primary;
mod promises;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tumen_core::Moment;
use tumen_core::ids::{Boot, Epoch, GroupId, Kind, NodeBoot, NodeName, PartitionId, Version};
use tumen_core::names::claim::Spec;
use tumen_core::names::crew::Crew;
use tumen_core::names::directory::{Change, Directory};
use tumen_core::names::name::Name;
use tumen_core::names::orders::Config;

use network::Message;
use nodes::Node;
use primary::Primary;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// A node takes orders whenever they come.
    StampsIgnored,
    /// The primary tells what only it has.
    ToldBeforeHeld,
    /// A node that was removed comes back with what it ran.
    KeepsWhenRemoved,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) started: usize,
    pub(crate) failed: usize,
    pub(crate) crashes: usize,
    pub(crate) removed: usize,
    pub(crate) returned: usize,
    pub(crate) failovers: usize,
    pub(crate) cut_off: usize,
    pub(crate) moved: usize,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.failed += other.failed;
        self.crashes += other.crashes;
        self.removed += other.removed;
        self.returned += other.returned;
        self.failovers += other.failovers;
        self.cut_off += other.cut_off;
        self.moved += other.moved;
    }
}

pub(crate) struct World {
    rng: SmallRng,
    flaw: Flaw,
    now: Moment,
    epoch: Epoch,
    log: Vec<Change>,
    mark: usize,
    /// What the newest primary's worker has.
    working: Directory,
    primary: Option<Primary>,
    /// A primary that does not know that it is none any more: its mark stands still.
    former: Option<Primary>,
    nodes: Vec<Node>,
    boots: u64,
    plans: Vec<BTreeMap<NodeBoot, bool>>,
    network: Vec<Message>,
    wanted: BTreeMap<Name, Arc<Spec>>,
    seen: Seen,
}

const NODES: usize = 4;
const DIRECTORY: PartitionId = PartitionId { group: GroupId::Names, index: 0 };

fn kind() -> Kind {
    Kind::new("child").unwrap()
}

fn name(number: usize) -> Name {
    Name::new(format!("name-{number}")).unwrap()
}

fn config() -> Config {
    Config {
        audit_every: Duration::from_millis(1500),
        start_within: Duration::from_secs(3),
        ..Config::default()
    }
}

impl World {
    pub(crate) fn new(seed: u64, flaw: Flaw) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            flaw,
            now: Moment::from_millis(1_000),
            epoch: Epoch::ZERO,
            log: Vec::new(),
            mark: 0,
            working: Directory::default(),
            primary: None,
            former: None,
            nodes: Vec::new(),
            boots: 0,
            plans: vec![BTreeMap::new()],
            network: Vec::new(),
            wanted: BTreeMap::new(),
            seen: Seen::default(),
        };
        for at in 0..NODES {
            let id = world.next_boot(at);
            world.nodes.push(Node {
                id,
                crew: Crew::default(),
                instances: BTreeMap::new(),
                held: BTreeMap::new(),
                leased: true,
                frozen: false,
                plan: Version::ZERO,
                actors: 0,
            });
        }
        let everybody = world.nodes.iter().map(|node| (node.id.clone(), true)).collect();
        world.plans.push(everybody);
        (0..NODES).for_each(|at| world.learn_plan(at));
        world.fail_over();
        world
    }

    fn next_boot(&mut self, at: usize) -> NodeBoot {
        self.boots += 1;
        NodeBoot::new(NodeName::new(&format!("n{at}")).unwrap(), Boot(self.boots))
    }

    pub(crate) fn run(mut self, steps: usize) -> Result<Seen, String> {
        for _ in 0..steps {
            self.step();
            self.check()?;
        }
        self.rest()?;
        Ok(self.seen)
    }

    fn chance(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    fn pick(&mut self) -> usize {
        self.rng.random_range(0..NODES)
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.random_range(0..60));
        match self.rng.random_range(0..100) {
            0..46 => self.deliver(),
            46..58 => self.advance_mark(),
            58..68 => self.tick(),
            68..76 => self.instance_goes_on(),
            76..82 => self.client_asks(),
            82..85 => self.freeze_or_thaw(),
            85..88 => self.remove_or_return(),
            88..90 => self.crash(),
            90..95 => {
                let at = self.pick();
                self.learn_plan(at);
            }
            95..98 => self.primary_learns_plan(),
            _ => self.fail_over(),
        }
    }
}
