//! Makes the cluster's plans while this node leads, and knows the nodes for when its turn comes.
//!
//! ```text
//!  sessions, leases, Raft, questions ─▶ Coordinator (core) ─▶ answers · releases asked · probes · proposals
//! ```
//!
//! All waiting is here: probes, proposals and timers run beside the mailbox and come back as messages.

mod losses;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tumen_core::Moment;
use tumen_core::cluster::asks::{Answer, Answered, Ask};
use tumen_core::cluster::control::{Command, ControlState, Outcome};
use tumen_core::cluster::coordinator::{AskError, Coordinator, Departure, Effect, Now, certify_change};
use tumen_core::cluster::lease::{self, Release, Reply};
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Epoch, GroupId, NodeBoot, NodeName, PartitionId, Term, Version};
use tumen_core::partitions::replication::{NotLost, Standing};
use tumen_core::wire::{CoordinatorFrame, LeaseFrame};

use crate::clock::Clock;
use crate::codec;
use crate::transport::{Channel, Probe, Transport};

/// How long a dial may take that is to prove a crash. A refusal comes at once.
const PROBE_WITHIN: Duration = Duration::from_millis(500);
/// How long a proposal may take before its outcome counts as unknown.
const COMMIT_WITHIN: Duration = Duration::from_secs(2);
/// How long a question waits for the plans that it caused.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);

/// What the coordinator needs of its surroundings: Raft, and the way to this node's own partitions.
pub trait Surroundings: Send + Sync + 'static {
    /// Proposes to Raft.
    fn commit(&self, command: Command, within: Duration) -> BoxFuture<'static, Proposed>;
    /// What the voters agreed on, as far as it was applied here.
    fn control(&self) -> Arc<ControlState>;
    /// Asks one node, this one or another. `None`: it did not answer.
    fn ask_node(&self, to: NodeName, ask: Ask, within: Duration) -> BoxFuture<'static, Option<Answered>>;
    /// The leader, which is this node, wants these partitions back from this node.
    fn release_here(&self, partitions: Vec<Release>);
    /// A lease reply for this node itself.
    fn reply_here(&self, reply: Reply);
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// It was agreed on, and had this outcome.
    Agreed(Outcome),
    /// The outcome is unknown, or the proposal was not taken.
    Unknown,
    /// It is larger than what can be agreed on, and was not even tried.
    TooLong {
        /// Its size in bytes.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
}

/// Where an answer goes.
pub type AnswerTo = oneshot::Sender<Answered>;

/// What the coordinator's mailbox takes.
pub enum AssignmentCoordinatorMsg {
    /// A session with a peer is up.
    PeerUp(NodeInfo),
    /// The session with a peer ended.
    PeerDown(NodeBoot),
    /// A node's own address was dialled.
    Probed {
        /// Whose.
        node: NodeBoot,
        /// What the dial found.
        probe: Probe,
    },
    /// Raft's leadership changed, or its first entry was applied here.
    Leadership {
        /// Who leads.
        leader: Option<NodeName>,
        /// In which term.
        term: Term,
        /// Whether the leader's first entry was applied here.
        settled: bool,
    },
    /// A majority confirmed this leader after the stamp.
    QuorumAck {
        /// The term that was confirmed.
        term: Term,
        /// The moment before the question left.
        stamp: Moment,
    },
    /// Raft applied something.
    Control(Arc<ControlState>),
    /// A proposal's outcome.
    Committed {
        /// Which plan was proposed.
        version: Version,
        /// What became of it.
        proposed: Proposed,
    },
    /// Proposed steps were taken, or refused, or nobody knows.
    Stepped,
    /// A partition's primary gave it up for lost, or says why not, or nothing.
    Surrendered {
        /// Which partition.
        partition: PartitionId,
        /// The epoch that is given back.
        epoch: Epoch,
        /// What is left.
        answer: Option<Result<Standing, NotLost>>,
    },
    /// Somebody asks for its lease.
    LeaseRequest(lease::Request),
    /// Somebody asks something.
    Ask(Ask, AnswerTo),
    /// Time has passed.
    Tick,
    /// A question has waited long enough.
    GiveUp(u64),
    /// This node left its cluster.
    Left {
        /// Whether the next one has its first plan with whoever is there, however many it was to wait for.
        anyhow: bool,
    },
}

impl ractor::Message for AssignmentCoordinatorMsg {}

impl fmt::Debug for AssignmentCoordinatorMsg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerUp(_) => "PeerUp",
            Self::PeerDown(_) => "PeerDown",
            Self::Probed { .. } => "Probed",
            Self::Leadership { .. } => "Leadership",
            Self::QuorumAck { .. } => "QuorumAck",
            Self::Control(_) => "Control",
            Self::Committed { .. } => "Committed",
            Self::Stepped => "Stepped",
            Self::Surrendered { .. } => "Surrendered",
            Self::LeaseRequest(_) => "LeaseRequest",
            Self::Ask(..) => "Ask",
            Self::Tick => "Tick",
            Self::GiveUp(_) => "GiveUp",
            Self::Left { .. } => "Left",
        })
    }
}

/// How a coordinator is made: anew at each start of the actor, so that one that crashed forgets what it granted,
/// and waits it out.
pub type MakeLaw = Arc<dyn Fn() -> Coordinator + Send + Sync>;

/// The actor.
pub struct AssignmentCoordinator {
    me: NodeBoot,
    clock: Clock,
    transport: Transport,
    surroundings: Arc<dyn Surroundings>,
    make_law: MakeLaw,
}

struct Waiting {
    number: u64,
    what: Wanted,
    to: AnswerTo,
    before: Option<Arc<Snapshot>>,
}

enum Wanted {
    /// There are partitions.
    Created {
        /// Whether it is this question that lets them come into being.
        first: bool,
    },
    Rebalanced,
    /// This node is primary of nothing any more.
    Departed(NodeName),
    /// Steps for these were taken, or not.
    Stepped(Vec<PartitionId>),
    /// This one's loss is accepted. Said by the law.
    LossAccepted(PartitionId),
}

/// What the coordinator remembers.
#[allow(missing_debug_implementations, reason = "strategies are the user's")]
pub struct AssignmentCoordinatorState {
    law: Coordinator,
    leads: bool,
    peers: BTreeMap<NodeBoot, NodeInfo>,
    wake: Option<(Moment, AbortHandle)>,
    waiting: Vec<Waiting>,
    asked: u64,
}

impl AssignmentCoordinator {
    /// A coordinator for this node.
    pub fn new(
        clock: Clock,
        transport: Transport,
        surroundings: Arc<dyn Surroundings>,
        make_law: MakeLaw,
    ) -> Self {
        Self { me: transport.local().clone(), clock, transport, surroundings, make_law }
    }

    fn now(&self) -> Now {
        Now { moment: self.clock.now(), unix: self.clock.unix() }
    }

    fn run(
        &self,
        myself: &ActorRef<AssignmentCoordinatorMsg>,
        state: &mut AssignmentCoordinatorState,
        effects: Vec<Effect>,
    ) {
        for effect in effects {
            match effect {
                Effect::Answer(reply) => self.reply(reply),
                Effect::AskRelease { to, partitions } => self.ask_release(&to, partitions),
                Effect::AskSurrender { to, partition, epoch } => {
                    self.ask_surrender(myself, &to, partition, epoch);
                }
                Effect::Probe { node, address } => self.probe(myself, node, address),
                Effect::Commit(command) => self.commit(myself, command),
                Effect::WakeAt(at) => self.wake(myself, state, at),
            }
        }
    }

    fn reply(&self, reply: Reply) {
        if reply.to == self.me {
            return self.surroundings.reply_here(reply);
        }
        let to = reply.to.node.clone();
        let frame = codec::pack(&LeaseFrame::Reply(reply));
        if let Err(error) = self.transport.cast(&to, Channel::Lease, &frame) {
            tracing::trace!(%to, %error, "a lease reply was not sent");
        }
    }

    fn ask_release(&self, to: &NodeBoot, partitions: Vec<Release>) {
        tracing::debug!(%to, partitions = partitions.len(), "asking for partitions back");
        if *to == self.me {
            return self.surroundings.release_here(partitions);
        }
        let frame = codec::pack(&CoordinatorFrame::AskRelease(partitions));
        if let Err(error) = self.transport.cast(&to.node, Channel::Coordinator, &frame) {
            tracing::debug!(%to, %error, "could not ask for partitions back; asked again after a while");
        }
    }

    fn probe(&self, myself: &ActorRef<AssignmentCoordinatorMsg>, node: NodeBoot, address: String) {
        let (transport, myself) = (self.transport.clone(), myself.clone());
        tokio::spawn(async move {
            let probe = transport.probe(&address, PROBE_WITHIN).await;
            tracing::debug!(%node, %address, ?probe, "dialled a node that is not connected");
            drop(myself.cast(AssignmentCoordinatorMsg::Probed { node, probe }));
        });
    }

    fn commit(&self, myself: &ActorRef<AssignmentCoordinatorMsg>, command: Command) {
        let version = match &command {
            Command::Publish { outline, .. } | Command::AcceptLoss { outline, .. } => outline.version(),
            Command::Step(steps) => {
                tracing::trace!(steps = steps.len(), "proposing steps");
                let committing = self.surroundings.commit(command, COMMIT_WITHIN);
                let myself = myself.clone();
                tokio::spawn(async move {
                    let outcome = committing.await;
                    tracing::trace!(?outcome, "steps came back");
                    drop(myself.cast(AssignmentCoordinatorMsg::Stepped));
                });
                return;
            }
            Command::Found(_) | Command::Configure(_) | Command::Inherit(_) => return,
        };
        tracing::debug!(%version, "proposing a plan");
        let committing = self.surroundings.commit(command, COMMIT_WITHIN);
        let myself = myself.clone();
        tokio::spawn(async move {
            let proposed = committing.await;
            drop(myself.cast(AssignmentCoordinatorMsg::Committed { version, proposed }));
        });
    }

    fn wake(
        &self,
        myself: &ActorRef<AssignmentCoordinatorMsg>,
        state: &mut AssignmentCoordinatorState,
        at: Moment,
    ) {
        if let Some((planned, waking)) = &state.wake {
            if *planned <= at && !waking.is_finished() {
                return;
            }
            waking.abort();
        }
        let wait = self.clock.until(at).max(Duration::from_millis(1));
        let myself = myself.clone();
        let waking = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            drop(myself.cast(AssignmentCoordinatorMsg::Tick));
        });
        state.wake = Some((at, waking.abort_handle()));
    }

    fn handle_ask(
        &self,
        myself: &ActorRef<AssignmentCoordinatorMsg>,
        state: &mut AssignmentCoordinatorState,
        ask: Ask,
        to: AnswerTo,
    ) -> Vec<Effect> {
        let now = self.now();
        let before = state.law.control().snapshot.clone();
        let (asked, what) = match ask {
            Ask::Create => match state.law.handle_create_asked(now) {
                Ok((effects, first)) => (Ok(effects), Wanted::Created { first }),
                Err(error) => (Err(error), Wanted::Created { first: false }),
            },
            Ask::Rebalance => (state.law.handle_rebalance_asked(now), Wanted::Rebalanced),
            Ask::Depart { node, how } => {
                (state.law.handle_departure(now, &node, how), Wanted::Departed(node))
            }
            Ask::Step(steps) => {
                let partitions = steps.iter().map(|step| step.partition).collect();
                (state.law.handle_steps_asked(now, steps), Wanted::Stepped(partitions))
            }
            Ask::AcceptLoss { partition } => {
                (state.law.handle_loss_asked(now, partition), Wanted::LossAccepted(partition))
            }
            Ask::Report { .. } => {
                drop(to.send(Ok(Answer::Report(None))));
                return Vec::new();
            }
            Ask::Surrender { .. } => {
                drop(to.send(Ok(Answer::Surrendered(Err(NotLost::Opens)))));
                return Vec::new();
            }
            Ask::Preview { add, remove } => {
                drop(to.send(state.law.preview(add as usize, &remove).map(Answer::Preview)));
                return Vec::new();
            }
            Ask::Pull { known } => {
                let newer = before.filter(|snapshot| snapshot.version > known);
                drop(to.send(Ok(Answer::Newer(newer))));
                return Vec::new();
            }
        };
        match asked {
            Ok(effects) => {
                state.asked += 1;
                let number = state.asked;
                state.waiting.push(Waiting { number, what, to, before });
                let myself = myself.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(SETTLE_WITHIN).await;
                    drop(myself.cast(AssignmentCoordinatorMsg::GiveUp(number)));
                });
                effects
            }
            Err(error) => {
                drop(to.send(Err(error)));
                Vec::new()
            }
        }
    }

    /// Answers the questions whose wish has come true.
    fn answer_waiting(&self, state: &mut AssignmentCoordinatorState) {
        let snapshot = state.law.control().snapshot.clone();
        let settled = state.law.is_settled();
        let mut still = Vec::new();
        for waiting in state.waiting.drain(..) {
            let Some(snapshot) = &snapshot else {
                still.push(waiting);
                continue;
            };
            let done = match &waiting.what {
                Wanted::Created { .. } => true,
                Wanted::Rebalanced => settled,
                Wanted::Stepped(_) => !state.law.is_stepping(),
                Wanted::LossAccepted(_) => false,
                Wanted::Departed(node) => settled && !leads_something(snapshot, node),
            };
            if !done {
                still.push(waiting);
                continue;
            }
            drop(waiting.to.send(Ok(finished(&waiting.what, waiting.before.as_deref(), snapshot))));
        }
        state.waiting = still;
    }
}

/// Answers the questions that wait with why their wish will not come true.
fn refuse_waiting(state: &mut AssignmentCoordinatorState, error: &AskError) {
    for waiting in state.waiting.drain(..) {
        drop(waiting.to.send(Err(error.clone())));
    }
}

fn leads_something(snapshot: &Snapshot, node: &NodeName) -> bool {
    let others =
        snapshot.members.iter().any(|m| m.name() != node && m.status.may_lead() && m.info.weight > 0);
    let leads = |a| snapshot.primary(a).is_some_and(|member| member.name() == node);
    // Where nobody else is left to serve, there is nobody to wait for.
    others && snapshot.partitions().any(|(_, assignment)| leads(assignment))
}

fn finished(what: &Wanted, before: Option<&Snapshot>, now: &Snapshot) -> Answer {
    match what {
        Wanted::Created { first } => Answer::Created { version: now.version, changed: *first },
        Wanted::Departed(_) | Wanted::LossAccepted(_) => Answer::Plan { version: now.version },
        Wanted::Stepped(partitions) => {
            let record = |partition: &PartitionId| Some((*partition, now.assignment(*partition)?.record()));
            Answer::Records(partitions.iter().filter_map(record).collect())
        }
        Wanted::Rebalanced => Answer::Rebalanced {
            version: now.version,
            changed: before.is_none_or(|before| before.version != now.version),
            certificate: certify_change(before, now, GroupId::Users).unwrap_or_default(),
        },
    }
}

impl Actor for AssignmentCoordinator {
    type Msg = AssignmentCoordinatorMsg;
    type State = AssignmentCoordinatorState;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let law = (self.make_law)();
        Ok(AssignmentCoordinatorState {
            law,
            leads: false,
            peers: BTreeMap::new(),
            wake: None,
            waiting: Vec::new(),
            asked: 0,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.now();
        let law = &mut state.law;
        let effects = match message {
            AssignmentCoordinatorMsg::PeerUp(info) => {
                state.peers.insert(info.id.clone(), info.clone());
                law.handle_peer_up(now, &info)
            }
            AssignmentCoordinatorMsg::PeerDown(id) => {
                state.peers.remove(&id);
                law.handle_peer_down(now, &id)
            }
            AssignmentCoordinatorMsg::Probed { node, probe } => {
                law.handle_probed(now, &node, probe == Probe::Refused)
            }
            AssignmentCoordinatorMsg::Leadership { leader, term, settled } => {
                state.leads = leader.as_ref() == Some(&self.me.node);
                if !state.leads {
                    refuse_waiting(state, &AskError::NotLeader { leader: leader.clone() });
                }
                state.law.handle_leadership(now, leader, term, settled)
            }
            AssignmentCoordinatorMsg::QuorumAck { term, stamp } => law.handle_quorum_ack(now, term, stamp),
            AssignmentCoordinatorMsg::Control(control) => law.handle_control(now, &control),
            AssignmentCoordinatorMsg::Committed { version, proposed } => {
                tracing::debug!(%version, ?proposed, "a proposal came back");
                match proposed {
                    Proposed::Agreed(outcome) => law.handle_committed(now, Some(&outcome)),
                    Proposed::Unknown => law.handle_committed(now, None),
                    Proposed::TooLong { len, max } => {
                        let (effects, error) = law.handle_too_long(now, len, max);
                        tracing::error!(%version, %error, "no plan");
                        refuse_waiting(state, &error);
                        effects
                    }
                }
            }
            AssignmentCoordinatorMsg::Stepped => {
                // What was applied may still be on its way to this mailbox.
                let mut effects = law.handle_control(now, &self.surroundings.control());
                effects.extend(law.handle_stepped(now));
                effects
            }
            AssignmentCoordinatorMsg::Surrendered { partition, epoch, answer } => {
                law.handle_surrendered(now, partition, epoch, answer)
            }
            AssignmentCoordinatorMsg::LeaseRequest(request) => law.handle_lease_request(now, &request),
            AssignmentCoordinatorMsg::Ask(ask, to) => self.handle_ask(&myself, state, ask, to),
            AssignmentCoordinatorMsg::Tick => {
                state.wake = None;
                law.handle_tick(now)
            }
            AssignmentCoordinatorMsg::GiveUp(number) => {
                // Dropped without an answer: the asker learns that it is not known yet.
                state.waiting.retain(|waiting| waiting.number != number);
                Vec::new()
            }
            AssignmentCoordinatorMsg::Left { anyhow } => {
                *law = (self.make_law)();
                if anyhow {
                    law.begin_anyhow();
                }
                state.leads = false;
                let mut effects = Vec::new();
                for info in state.peers.values() {
                    effects.extend(law.handle_peer_up(now, info));
                }
                effects
            }
        };
        self.run(&myself, state, effects);
        losses::answer(state);
        self.answer_waiting(state);
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some((_, waking)) = state.wake.take() {
            waking.abort();
        }
        Ok(())
    }
}

/// How a node announces that it stops.
pub const fn stopping(grace: Duration) -> Departure {
    Departure::Stop { grace }
}
