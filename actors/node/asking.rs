//! Questions to the leader: answered here if this node leads, and taken to it if not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::cluster::asks::{Answer, Answered, Ask};
use tumen_core::cluster::coordinator::AskError;
use tumen_core::ids::{ClusterId, NodeName};
use tumen_core::partitions::replication::NotLost;

use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::plans::Plans;
use crate::codec;
use crate::partitions::Replication;
use crate::port::Port;
use crate::transport::{DATA_LEN_MAX, Failure, Incoming, LaneError, Serve, Service, Transport};

/// How long to wait before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskFailure {
    /// The leader answered, and said no. Nothing changed.
    #[error(transparent)]
    Refused(#[from] AskError),
    /// Nobody is known to lead, or the leader cannot be reached. Nothing changed.
    #[error("no leader could be asked in time: nothing changed, ask again")]
    NoLeader,
    /// The leader was asked, and did not answer in time.
    #[error("the leader did not answer in time: what was asked may still be carried out")]
    Timeout,
}

/// Where questions are taken. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) coordinator: Port<AssignmentCoordinatorMsg>,
    pub(super) replication: Replication,
    pub(super) plans: Plans,
}

impl Asking {
    /// Answers what is asked of a partition's primary. Other questions are given back.
    fn answer_of_primary(&self, ask: Ask) -> Result<Answer, Ask> {
        let plan = self.plans.newest();
        match ask {
            Ask::Report { partition } => {
                let report = plan.and_then(|plan| self.replication.report(&plan, partition));
                Ok(Answer::Report(report))
            }
            Ask::Surrender { partition, epoch } => Ok(Answer::Surrendered(match plan {
                Some(plan) => self.replication.surrender(&plan, partition, epoch),
                None => Err(NotLost::Opens),
            })),
            other => Err(other),
        }
    }

    /// Asks one node, this one or another.
    pub(super) async fn ask_node(
        &self,
        transport: &Transport,
        to: &NodeName,
        ask: Ask,
        within: Duration,
    ) -> Option<Answered> {
        let deadline = Instant::now() + within;
        let of = self.plans.cluster();
        if *to == transport.local().node {
            return self.ask_here(of, ask, deadline).await.ok();
        }
        ask_there(transport, to, (of, &ask), deadline).await.ok()
    }

    /// Asks this node's own coordinator, on behalf of whoever is of this cluster. `None`: it knows none yet.
    async fn ask_here(
        &self,
        of: Option<ClusterId>,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Answered, AskFailure> {
        if of.is_some_and(|of| self.plans.cluster().is_some_and(|ours| ours != of)) {
            // What is meant for another cluster's plan could fit this one's by its numbers.
            return Ok(Err(AskError::NotLeader { leader: None }));
        }
        let ask = match self.answer_of_primary(ask) {
            Ok(answer) => return Ok(Ok(answer)),
            Err(ask) => ask,
        };
        let (to, answer) = oneshot::channel();
        if !self.coordinator.cast(AssignmentCoordinatorMsg::Ask(ask, to)) {
            return Err(AskFailure::NoLeader);
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(_)) | Err(_) => Err(AskFailure::Timeout),
        }
    }

    /// Asks whoever leads.
    pub(super) async fn ask(
        &self,
        transport: &Transport,
        leader: impl Fn() -> Option<NodeName>,
        ask: Ask,
        within: Duration,
    ) -> Result<Answer, AskFailure> {
        let deadline = Instant::now() + within;
        let mut hint: Option<NodeName> = None;
        let of = self.plans.cluster();
        loop {
            if of.is_some() && self.plans.cluster() != of {
                // This node left the cluster that it asks of.
                return Err(AskFailure::NoLeader);
            }
            let to = hint.take().or_else(&leader);
            let answered = match to {
                Some(to) if to == transport.local().node => self.ask_here(of, ask.clone(), deadline).await?,
                Some(to) => match ask_there(transport, &to, (of, &ask), deadline).await {
                    Ok(answered) => answered,
                    // It was not asked, or did not look at it: look for the leader again.
                    Err(error) if !error.maybe_delivered() => Err(AskError::NotLeader { leader: None }),
                    Err(_) => return Err(AskFailure::Timeout),
                },
                None => Err(AskError::NotLeader { leader: None }),
            };
            match answered {
                Ok(answer) => return Ok(answer),
                Err(AskError::NotLeader { leader }) => hint = leader,
                Err(error) => return Err(error.into()),
            }
            if Instant::now() + LOOK_AGAIN >= deadline {
                return Err(AskFailure::NoLeader);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Asks one other node, as one of this cluster. `None`: as one that takes an answer of any.
pub(super) async fn ask_there(
    transport: &Transport,
    to: &NodeName,
    ask: (Option<ClusterId>, &Ask),
    deadline: Instant,
) -> Result<Answered, LaneError> {
    let within = deadline.saturating_duration_since(Instant::now());
    let encode = |buffer: &mut bytes::BytesMut| {
        codec::encode_into(&ask, buffer).expect("a question is small and encodable");
    };
    let reply = transport.call(to, Service::Coordinator, within, encode).await?;
    codec::decode(&reply, DATA_LEN_MAX).map_err(|error| {
        tracing::warn!(%to, %error, "an answer cannot be read");
        LaneError::Unanswered
    })
}

impl Serve for Asking {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for incoming in batch.drain(..) {
            let (of, ask): (Option<ClusterId>, Ask) = match codec::decode(&incoming.body, DATA_LEN_MAX) {
                Ok(ask) => ask,
                Err(error) => {
                    tracing::warn!(from = %incoming.from(), %error, "a question cannot be read");
                    incoming.reply.fail(Failure::NotServed);
                    continue;
                }
            };
            let asking = self.clone();
            tokio::spawn(async move {
                match asking.ask_here(of, ask, incoming.deadline).await {
                    Ok(answered) => match codec::try_pack(&answered, DATA_LEN_MAX - codec::HEADER_LEN) {
                        Ok(answer) => incoming.reply.send(&answer),
                        Err(error) => {
                            tracing::warn!(%error, "an answer does not fit a frame");
                            incoming.reply.fail(Failure::ReplyLost);
                        }
                    },
                    Err(AskFailure::NoLeader) => incoming.reply.fail(Failure::NotServed),
                    Err(AskFailure::Timeout | AskFailure::Refused(_)) => {
                        incoming.reply.fail(Failure::Dropped);
                    }
                }
            });
        }
    }
}

/// Serves questions that other nodes ask.
pub(super) fn serve(transport: &Transport, asking: &Asking) {
    transport.serve(Service::Coordinator, Arc::new(asking.clone()));
}
