//! What nodes ask each other about the configuration: whoever leads to carry out a write, anybody what came since.

use std::sync::{Arc, Weak};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tumen_core::cluster::configuration::{CatchUp, Configuration, Refused, Write, Written};
use tumen_core::ids::{ClusterId, ConfigVersion, NodeName};

use crate::codec;
use crate::node::parts::Parts;
use crate::transport::{DATA_LEN_MAX, Failure, Incoming, LaneError, Serve, Service};

/// What one node asks another.
#[derive(Serialize, Deserialize)]
pub(super) enum Question {
    /// The leader: carry this out. Answered by [`Answer::Written`], or by why not.
    Write(Write),
    /// Any node: what came after this? Answered by [`Answer::CatchUp`].
    Since(ConfigVersion),
}

#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Written(Result<Written, Refused>),
    /// Another node leads, or none. Nothing changed.
    NotLeader(Option<NodeName>),
    /// This one leads, and no majority answers it. Nothing changed.
    NoQuorum,
    /// Nobody knows what became of it, or will.
    Unknown,
    CatchUp(Option<ClusterId>, CatchUp),
}

impl Parts {
    pub(super) async fn ask_configuration(
        &self,
        to: &NodeName,
        question: &Question,
        deadline: Instant,
    ) -> Result<Answer, LaneError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let encode = |buffer: &mut BytesMut| {
            codec::encode_into(question, buffer).expect("a question is small and encodable");
        };
        let reply = self.transport.call(to, Service::Configuration, within, encode).await?;
        codec::decode(&reply, DATA_LEN_MAX).map_err(|error| {
            tracing::warn!(%to, %error, "an answer about the configuration cannot be read");
            LaneError::Unanswered
        })
    }
}

/// Answers what other nodes ask about the configuration.
struct Here(Weak<Parts>);

impl Serve for Here {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for incoming in batch.drain(..) {
            let Some(parts) = self.0.upgrade() else {
                incoming.reply.fail(Failure::NotServed);
                continue;
            };
            match codec::decode(&incoming.body, DATA_LEN_MAX) {
                Ok(Question::Since(known)) => {
                    let view = parts.configuration.store.view();
                    answer(
                        incoming,
                        &Answer::CatchUp(view.cluster(), Configuration::catch_up(view.all(), known)),
                    );
                }
                Ok(Question::Write(write)) => {
                    tokio::spawn(async move {
                        let decided = parts.decide(write, incoming.deadline).await;
                        answer(incoming, &decided);
                    });
                }
                Err(error) => {
                    tracing::warn!(from = %incoming.from(), %error, "a question cannot be read");
                    incoming.reply.fail(Failure::NotServed);
                }
            }
        }
    }
}

fn answer(incoming: Incoming, answer: &Answer) {
    match codec::try_pack(answer, DATA_LEN_MAX - codec::HEADER_LEN) {
        Ok(answer) => incoming.reply.send(&answer),
        Err(error) => {
            tracing::warn!(%error, "an answer does not fit a frame");
            incoming.reply.fail(Failure::ReplyLost);
        }
    }
}

/// Serves what other nodes ask about the configuration.
pub(in crate::node) fn serve(parts: &Arc<Parts>) {
    parts.transport.serve(Service::Configuration, Arc::new(Here(Arc::downgrade(parts))));
}
