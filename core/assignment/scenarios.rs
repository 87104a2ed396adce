//! Clusters and events of stated sizes: what benchmarks, tables and demonstrations are made of.
//!
//! Nothing here looks at a clock: whoever measures times [`Strategy::assign`] around [`Scenario::problem`].

use serde::{Deserialize, Serialize};

use crate::assignment::roster::mix;
use crate::assignment::{AssignError, Candidate, Certificate, Layout, Problem, Strategy, certify};
use crate::cluster::member::{WEIGHT_DEFAULT, Zone};
use crate::ids::NodeName;

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Nodes before the event.
    pub nodes: u32,
    /// Partitions.
    pub partitions: u32,
    /// Copies of each.
    pub replication: u32,
    /// Zones that the nodes are dealt out to in turn. Zero: none has a zone.
    pub zones: u32,
    /// Different weights that the nodes get in turn: 100, 200 and so on.
    pub weights: u32,
}

/// A cluster as most are.
pub const SMALL: Size = Size { nodes: 64, partitions: 1_024, replication: 3, zones: 0, weights: 1 };

/// The largest that is promised.
pub const LARGE: Size = Size { nodes: 1_000, partitions: 65_536, replication: 3, zones: 0, weights: 1 };

/// What happens to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A first placement.
    Fresh,
    /// One node more.
    Join,
    /// One node less.
    Leave,
    /// One node goes and another comes, in one step.
    Replace,
    /// The previous map has everything on a hundredth of the nodes, or on as few as hold all copies.
    ImportCrowded,
    /// The previous map was drawn by lot, node by node.
    ImportRandom,
    /// The previous map is even in copies, and a few nodes lead everything.
    ImportLed,
}

impl Event {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Fresh,
        Self::Join,
        Self::Leave,
        Self::Replace,
        Self::ImportCrowded,
        Self::ImportRandom,
        Self::ImportLed,
    ];

    /// A word for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Replace => "replace",
            Self::ImportCrowded => "import-crowded",
            Self::ImportRandom => "import-random",
            Self::ImportLed => "import-led",
        }
    }
}

/// A cluster in which something has happened.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How large it was before.
    pub size: Size,
    /// What happened.
    pub event: Event,
    /// Who is there now.
    pub nodes: Vec<Candidate>,
    /// The map before.
    pub previous: Option<Layout>,
}

impl Scenario {
    /// What any strategy that is even before and after must move, without zones and with equal weights: what was on
    /// the node that left, or the newcomer's share. None where there was no map of its own before.
    pub fn unavoidable(&self) -> Option<u64> {
        let previous = self.previous.as_ref()?;
        let copies = u64::from(self.size.partitions) * u64::from(self.size.replication.min(self.size.nodes));
        match self.event {
            Event::Join => Some(copies / (u64::from(self.size.nodes) + 1)),
            Event::Leave | Event::Replace => {
                let gone = |name: &NodeName| self.nodes.iter().all(|node| node.name != *name);
                let held = previous.nodes().iter().zip(previous.copies_per_node());
                Some(held.filter(|(name, _)| gone(name)).map(|(_, held)| u64::from(held)).sum())
            }
            _ => None,
        }
    }

    /// What an answer costs, counted independently.
    pub fn figures(&self, layout: &Layout) -> Figures {
        let certificate = certify(&self.problem(), layout);
        Figures { size: self.size, event: self.event, unavoidable: self.unavoidable(), certificate }
    }

    /// What a strategy is asked now.
    pub fn problem(&self) -> Problem<'_> {
        let problem = Problem::new(&self.nodes, self.size.partitions, self.size.replication);
        Problem { previous: self.previous.as_ref(), ..problem }
    }
}

impl Size {
    /// The nodes `node-0000`, `node-0001` and so on.
    pub fn members(self) -> Vec<Candidate> {
        (0..self.nodes).map(|number| self.member(number)).collect()
    }

    /// The node of this number.
    fn member(self, number: u32) -> Candidate {
        Candidate {
            zone: (self.zones > 0).then(|| Zone(format!("zone-{}", number % self.zones).into())),
            weight: WEIGHT_DEFAULT * (1 + number % self.weights.max(1)),
            ..Candidate::new(name(number))
        }
    }
}

fn name(number: u32) -> NodeName {
    NodeName::new(&format!("node-{number:04}")).expect("letters, digits and a hyphen are legal in a name")
}

/// The cluster after an event; the map before it, where there is one, is the strategy's own (an import excepted).
///
/// # Errors
/// What the strategy says.
pub fn scenario(strategy: &dyn Strategy, size: Size, event: Event) -> Result<Scenario, AssignError> {
    let mut members = size.members();
    let own = |members: &[Candidate]| {
        strategy.assign(&Problem::new(members, size.partitions, size.replication)).map(Some)
    };
    let previous = match event {
        Event::Fresh => None,
        Event::ImportCrowded => Some(crowded(size)),
        Event::ImportRandom => Some(random(size)),
        Event::ImportLed => own(&members)?.map(|layout| led_by_few(&layout)),
        Event::Join | Event::Leave | Event::Replace => own(&members)?,
    };
    if matches!(event, Event::Leave | Event::Replace) && members.len() > 1 {
        // Any node serves; this one is in the middle of the ring of names.
        members.remove(members.len() / 2);
    }
    if matches!(event, Event::Join | Event::Replace) {
        members.push(size.member(size.nodes));
    }
    Ok(Scenario { size, event, nodes: members, previous })
}

fn crowded(size: Size) -> Layout {
    let few = (size.nodes / 100).max(size.replication).min(size.nodes).max(1);
    let mut layout = Layout::new((0..few).map(name).collect());
    for partition in 0..size.partitions {
        let row: Vec<u32> = (0..size.replication.min(few)).map(|copy| (partition + copy) % few).collect();
        layout.push_row(&row);
    }
    layout
}

fn random(size: Size) -> Layout {
    let mut layout = Layout::new((0..size.nodes).map(name).collect());
    for partition in 0..size.partitions {
        let mut row: Vec<u32> = Vec::new();
        let mut draw = 0;
        while row.len() < size.replication.min(size.nodes) as usize {
            // The lower of two draws: low numbers hold far more than high ones.
            let lot = |side| mix(u64::from(partition) << 8 | draw, side) % u64::from(size.nodes);
            let node = lot(1).min(lot(2)) as u32;
            draw += 1;
            if !row.contains(&node) {
                row.push(node);
            }
        }
        layout.push_row(&row);
    }
    layout
}

fn led_by_few(layout: &Layout) -> Layout {
    let mut led = Layout::new(layout.nodes().to_vec());
    for row in layout.rows() {
        let mut row = row.to_vec();
        row.sort_unstable();
        led.push_row(&row);
    }
    led
}

/// What an event cost with a strategy, and what had to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// How large the cluster was.
    pub size: Size,
    /// What happened.
    pub event: Event,
    /// See [`Scenario::unavoidable`].
    pub unavoidable: Option<u64>,
    /// What the change costs, counted independently.
    pub certificate: Certificate,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::strategies;

    #[test]
    fn every_event_has_an_answer_by_every_strategy() {
        for strategy in strategies::NAMES.map(|name| strategies::by_name(name).unwrap()) {
            for event in Event::ALL {
                let size = Size { nodes: 7, partitions: 32, ..SMALL };
                let scenario = scenario(&*strategy, size, event).unwrap();
                let layout = strategy.assign(&scenario.problem()).unwrap();
                let figures = scenario.figures(&layout);
                if strategy.name() == "balanced" {
                    assert!(figures.certificate.is_minimal(), "{figures:?}");
                    assert!(figures.certificate.imbalance_copies <= 1, "{figures:?}");
                    assert!(figures.certificate.imbalance_primaries <= 1, "{figures:?}");
                }
            }
        }
    }
}
