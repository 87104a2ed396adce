//! What is asked of the directory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tumen_core::names::claim::{Holder, Spec};
use tumen_core::names::placement::Placing;
use tumen_core::supervision::Restart;

use super::network::Message;
use super::{World, kind, name};

impl World {
    pub(super) fn client_asks(&mut self) {
        let asked = self.rng.random_range(0..5);
        let (child, plain) = (name(asked), name(100 + asked));
        match self.rng.random_range(0..10) {
            0..5 => {
                let restart = [Restart::Permanent, Restart::Transient, Restart::Temporary][asked % 3];
                let all = [Placing::Uniform, Placing::LeastLoaded, Placing::Random, Placing::UniformActive];
                let placing = all[asked % 4].clone();
                let spec = Arc::new(Spec {
                    kind: kind(),
                    args: Bytes::new(),
                    restart,
                    restarts_max: 1_000,
                    window: Duration::from_secs(30),
                    placing,
                });
                if let Ok(Some(change)) = self.working.judge_start(&child, &spec, &Bytes::new()) {
                    self.append(change);
                    self.wanted.insert(child, spec);
                }
            }
            5 => {
                if let Ok(Some(change)) = self.working.judge_terminate(&child) {
                    self.append(change);
                }
            }
            6 => {
                if let Some(change) = self.working.judge_move(&child) {
                    self.append(change);
                }
            }
            _ => {
                let at = self.pick();
                let node = &mut self.nodes[at];
                if node.leased && !node.frozen && !node.held.contains_key(&plain) {
                    node.actors += 1;
                    let holder = Holder { node: node.id.clone(), actor: node.actors };
                    self.network.push(Message::Claim(holder, plain));
                }
            }
        }
    }
}
