//! What the writes are compared with: the bare RPC over as many hops, in processes of its own.

use crate::bench::calls::CallsError;
use crate::bench::calls::child::{Contestant, Order, Part};
use crate::bench::calls::peers::Peer;

/// A caller, and whom it calls.
pub(super) struct Bare {
    pub(super) caller: Peer,
    _others: Vec<Peer>,
}

impl Bare {
    /// Caller and echo: one copy acknowledges.
    pub(super) fn one_hop() -> Result<Self, CallsError> {
        let (echo, address) = Self::listening(Part::Echo, None)?;
        Self::calling(&address, vec![echo])
    }

    /// Caller, relay and two echoes, of which the first one counts: two of three copies acknowledge.
    pub(super) fn two_hops() -> Result<Self, CallsError> {
        let (first, one) = Self::listening(Part::Echo, None)?;
        let (second, other) = Self::listening(Part::Echo, None)?;
        let (relay, address) = Self::listening(Part::Relay, Some(&format!("{one},{other}")))?;
        Self::calling(&address, vec![first, second, relay])
    }

    fn listening(part: Part, to: Option<&str>) -> Result<(Peer, String), CallsError> {
        let mut peer = Peer::start(Contestant::Raw, part, super::THREADS, to)?;
        let address = peer.hear()?;
        Ok((peer, address))
    }

    fn calling(address: &str, others: Vec<Peer>) -> Result<Self, CallsError> {
        let mut caller = Peer::start(Contestant::Raw, Part::Caller, super::THREADS, Some(address))?;
        let _: String = caller.hear()?;
        caller.tell::<()>(&Order::Connect)?;
        Ok(Self { caller, _others: others })
    }
}
