//! The actor that keeps the router's table at the newest plan.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tumen_core::cluster::snapshot::Snapshot;

use super::{Router, TICK_EVERY};

/// The actor that keeps the router's table at the newest plan.
#[derive(Debug)]
pub struct RouterActor {
    router: Router,
}

/// What the router's mailbox takes.
#[derive(Debug)]
pub enum RouterMsg {
    /// A plan was committed. An older one than known is old news.
    Plan(Arc<Snapshot>),
    /// This node left its cluster.
    Left,
    /// A second has passed.
    Tick,
}

impl ractor::Message for RouterMsg {}

impl RouterActor {
    /// The actor of this router.
    pub const fn new(router: Router) -> Self {
        Self { router }
    }
}

impl Actor for RouterActor {
    type Msg = RouterMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        // It ends with this actor.
        drop(myself.send_interval(TICK_EVERY, || RouterMsg::Tick));
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RouterMsg::Plan(plan) => self.router.swap(&plan),
            RouterMsg::Left => self.router.clear(),
            RouterMsg::Tick => self.router.tick(),
        }
        Ok(())
    }
}
