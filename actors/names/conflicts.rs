//! Names that two sides of a cluster gave to somebody each: who keeps them, and how whoever does not is told.
//!
//! ```text
//!  directory's primary ─ Conflict ─▶ Resolver ─▶ Winner      it panics: the name is free, a child stays where it is
//!  lost ─┬─ on the side that joins: refused        ─▶ Lost, to the actor's owner; a child ends
//!        └─ on the side that stays: told as news   ─▶ the same
//! ```

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tumen_core::names::conflict::{Conflict, Rule, Winner};
use tumen_core::names::directory::News;
use tumen_core::names::{Holder, Name, Reason};

use super::{DistributedSupervisorMsg, Names};

/// Says who of two keeps a name. Asked where the name's directory is, while that waits: it must be quick. All nodes should say
/// the same.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(&Conflict) -> Winner + Send + Sync>);

impl Resolver {
    /// By this function.
    pub fn new(decide: impl Fn(&Conflict) -> Winner + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    /// Who keeps the name. `None`: the function panicked.
    pub(super) fn decide(&self, conflict: &Conflict) -> Option<Winner> {
        let decided = std::panic::catch_unwind(AssertUnwindSafe(|| (self.0)(conflict)));
        match decided {
            Ok(winner) => Some(winner),
            Err(panic) => {
                let why = crate::partitions::partition_worker::panic_text(&*panic);
                tracing::error!(name = %conflict.name, why, "whoever was to say who keeps a name panicked: nobody does");
                None
            }
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Rule::default().into()
    }
}

impl From<Rule> for Resolver {
    fn from(rule: Rule) -> Self {
        Self::new(move |conflict| rule.decide(conflict))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// An actor does not hold a name any more, for another side of the cluster gave it to somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which name.
    pub name: Name,
    /// Who has it; `None`: nobody who runs at present.
    pub to: Option<Holder>,
}

impl Names {
    /// Tells those of this node whom another side's claims took names from, for as long as the node runs.
    pub(crate) async fn follow_conflicts(self) {
        let mut news = self.shared.table.news();
        loop {
            match news.recv().await {
                Ok(piece) => self.handle_news(&piece),
                // What was not heard of children is found by their numbers, and of names when their directory asks.
                Err(RecvError::Lagged(_)) => {
                    self.shared.ports.supervisor.cast(DistributedSupervisorMsg::Look);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn handle_news(&self, piece: &News) {
        let News::Unregistered { name, holder: Some(holder), kind, reason: Reason::Conflict(to), .. } = piece
        else {
            return;
        };
        if holder.node != self.shared.me {
            return;
        }
        if kind.is_some() {
            self.shared.ports.supervisor.cast(DistributedSupervisorMsg::Look);
            return;
        }
        self.shared.registry.lose(&Lost { name: name.clone(), to: to.clone() }, holder.actor);
    }

    /// The names that an actor of this node loses to others from now on. `None`: there is no such actor.
    pub fn losses_of(&self, actor: u64) -> Option<tokio::sync::broadcast::Receiver<Lost>> {
        self.shared.registry.losses_of(actor)
    }
}
