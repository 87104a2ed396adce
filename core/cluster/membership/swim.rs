//! foca, held by the reins: what it wants to send and when it wants to be woken is collected, not done.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, Member, NoCustomBroadcast, Notification};

use super::codec::Codec;
use super::config::Config;
use super::identity::Identity;
use super::packet::{self, PacketError};
use crate::ids::NodeName;

/// foca with its chance and its wishes.
pub(super) struct Swim {
    foca: Foca<Identity, Codec, Chance, NoCustomBroadcast>,
    pub(super) wishes: Wishes,
    transmissions: u8,
}

/// What foca asked for since it was last looked at.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) sends: Vec<(Identity, Bytes)>,
    pub(super) timers: Vec<(Duration, foca::Timer<Identity>)>,
    /// The nodes of which something may have changed.
    pub(super) touched: BTreeSet<NodeName>,
    /// The node took a new identity, because others held it for down.
    pub(super) renewed: bool,
    /// The node's own incarnation, as last told.
    incarnation: u16,
}

impl Swim {
    pub(super) fn new(identity: Identity, config: &Config, seed: u64) -> Self {
        let config = config.swim(1);
        let transmissions = config.max_transmissions.get();
        let foca = Foca::new(identity, config, Chance(seed), Codec);
        Self { foca, wishes: Wishes::default(), transmissions }
    }

    /// Handles a packet of foca's own that was looked through.
    pub(super) fn handle_data(&mut self, data: &[u8]) -> Result<(), PacketError> {
        self.foca.handle_data(data, &mut self.wishes).map_err(|error| refused(&error))
    }

    pub(super) fn handle_timer(&mut self, timer: foca::Timer<Identity>) {
        // Its errors say that timers came out of order, which the next round of probes mends.
        let _ = self.foca.handle_timer(timer, &mut self.wishes);
    }

    /// Takes in what is known from elsewhere, and passes it on by gossip if `gossip`.
    pub(super) fn apply(&mut self, members: Vec<Member<Identity>>, gossip: bool) -> Result<(), PacketError> {
        self.wishes.touched.extend(members.iter().map(|member| member.id().name().clone()));
        self.foca.apply_many(members.into_iter(), gossip, &mut self.wishes).map_err(|error| refused(&error))
    }

    /// Takes a newer identity than one of this node's own that somebody still tells of.
    pub(super) fn revive_after(&mut self, revival: u64) -> Result<(), PacketError> {
        let identity = self.foca.identity().revived_after(revival);
        self.wishes.renewed = true;
        self.foca.change_identity(identity, &mut self.wishes).map_err(|error| refused(&error))
    }

    /// Says goodbye, and takes part no more.
    pub(super) fn leave(&mut self) {
        // Only encoding could fail, and what is encoded here was encoded before.
        let _ = self.foca.leave_cluster(&mut self.wishes);
    }

    /// Forgets a node that is down.
    pub(super) fn forget(&mut self, identity: Identity) {
        self.handle_timer(foca::Timer::RemoveDown(identity));
    }

    /// Tells foca how large the cluster is, so that it passes news on often enough.
    pub(super) fn fit(&mut self, config: &Config, nodes: usize) {
        let config = config.swim(nodes);
        if config.max_transmissions.get() != self.transmissions {
            self.transmissions = config.max_transmissions.get();
            // Only changed intervals are refused.
            let _ = self.foca.set_config(config);
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    pub(super) fn incarnation(&self) -> u16 {
        self.wishes.incarnation
    }

    /// All that foca knows of others, those that are down included.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member<Identity>> {
        self.foca.iter_membership_state()
    }
}

fn refused(error: &foca::Error) -> PacketError {
    PacketError::Refused(error.to_string())
}

impl foca::Runtime<Identity> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(node) | Notification::MemberDown(node) | Notification::Rename(_, node) => {
                self.touched.insert(node.name().clone());
            }
            Notification::Rejoin(_) => self.renewed = true,
            Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        if let Some(incarnation) = packet::header_incarnation(data) {
            self.incarnation = incarnation;
        }
        self.sends.push((to, packet::swim(data)));
    }

    fn submit_after(&mut self, event: foca::Timer<Identity>, after: Duration) {
        // That a node is suspected is not notified, but this timer tells.
        if let foca::Timer::ChangeSuspectToDown { member_id, .. } = &event {
            self.touched.insert(member_id.name().clone());
        }
        self.timers.push((after, event));
    }
}

/// Chance from a seed (splitmix64, Steele, Lea and Flood 2014): the same seed, the same course of events.
#[derive(Clone, Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 if `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}

impl rand_core::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let bytes = self.draw().to_le_bytes();
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.draw())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(8) {
            let bytes = self.draw().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}
