//! What a node brings along that comes from another side of its cluster: an actor that holds a name there, or a child that runs.
//!
//! ```text
//!  judge_bring ─┬─ free, or waiting for just that ─▶ Brought
//!               ├─ the very same ──────────────────▶ nothing
//!               └─ somebody else's ─▶ Contested ─ who keeps it? ─▶ settle_bring ─┬─ Brought, in place of that
//!                                                                                └─ Refused: who has it
//! ```

use std::sync::Arc;

use super::judging::{already, check_len};
use super::{Change, Directory, News, Refused};
use crate::ids::NodeBoot;
use crate::names::claim::{Child, Claim, ClaimNumber, Held, Holder, Reason, Stage};
use crate::names::conflict::{Conflict, Contender, Winner};
use crate::names::request::Brought;
use crate::time::UnixMillis;

/// What becomes of something that is brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bringing {
    /// These changes have it stand here. None: it does already.
    Stands(Vec<Change>),
    /// Somebody else holds the name.
    Contested(Conflict),
}

impl Directory {
    /// A node brings something along. `is_member`: by the newest plan that is known.
    ///
    /// # Errors
    /// Its node is no member, it is too long, or there is no room.
    pub fn judge_bring(
        &self,
        brought: &Brought,
        is_member: impl Fn(&NodeBoot) -> bool,
    ) -> Result<Bringing, Refused> {
        let Brought { name, holder, value, spec, .. } = brought;
        if !is_member(&holder.node) {
            return Err(Refused::NoMember(holder.node.clone()));
        }
        check_len(value)?;
        spec.as_ref().map_or(Ok(()), |spec| check_len(&spec.args))?;
        let Some(claim) = self.get(name) else {
            self.check_room()?;
            return Ok(Bringing::Stands(vec![change(brought, None)]));
        };
        if claim.holder() == Some(holder) {
            return Ok(Bringing::Stands(Vec::new()));
        }
        match &claim.held {
            // Its node is no member any more, which the directory was not told yet.
            Held::Plain(there) if !is_member(&there.node) => {
                Ok(Bringing::Stands(vec![change(brought, Some(claim.number))]))
            }
            // It waits for somebody to run it, and here is somebody.
            Held::Child(child) if child.stage == Stage::Waiting && Some(&child.spec) == spec.as_ref() => {
                Ok(Bringing::Stands(vec![change(brought, Some(claim.number))]))
            }
            // It is to end, which is the last word.
            Held::Child(child) if matches!(child.stage, Stage::Stopping { moves: false, .. }) => {
                Err(already(name, claim))
            }
            Held::Plain(_) | Held::Child(_) => Ok(Bringing::Contested(Conflict {
                name: name.clone(),
                here: self.contender(claim),
                comes: Contender {
                    node: Some(holder.node.clone()),
                    kind: spec.as_ref().map(|spec| spec.kind.clone()),
                    value: value.clone(),
                    since: brought.since,
                },
            })),
        }
    }

    /// It is known who keeps the name. `None`: nobody does, for it could not be told. A child then keeps it where it is one's:
    /// it has no life without.
    ///
    /// # Errors
    /// Whoever is here keeps it, or nobody does.
    pub fn settle_bring(
        &self,
        brought: &Brought,
        winner: Option<Winner>,
    ) -> Result<Vec<Change>, (Vec<Change>, Refused)> {
        let Some(claim) = self.get(&brought.name) else { return Ok(vec![change(brought, None)]) };
        let children = claim.child().is_some() || brought.spec.is_some();
        match winner {
            Some(Winner::Comes) => Ok(vec![change(brought, Some(claim.number))]),
            None if !children => {
                let (name, number) = (brought.name.clone(), claim.number);
                let refused = Refused::AlreadyRegistered { name: name.clone(), holder: None, number };
                Err((vec![Change::Released { name, number, reason: Reason::Conflict(None) }], refused))
            }
            Some(Winner::Here) | None => Err((Vec::new(), already(&brought.name, claim))),
        }
    }

    fn contender(&self, claim: &Claim) -> Contender {
        // What is only about to run has run for no time yet.
        let since = if claim.holder().is_some() { claim.since } else { UnixMillis(u64::MAX) };
        let (node, kind) = (claim.node().cloned(), claim.kind().cloned());
        Contender { node, kind, value: claim.value.clone(), since }
    }

    pub(super) fn apply_brought(&mut self, brought: &Brought, in_place_of: Option<ClaimNumber>) -> Vec<News> {
        let Brought { name, holder, value, spec, since } = brought;
        if self.get(name).map(|claim| claim.number) != in_place_of {
            return Vec::new();
        }
        let mut news = Vec::new();
        let former = self.take(name);
        if let Some(former) = &former
            && let Some(loser) = former.holder()
        {
            news.push(News::Unregistered {
                name: name.clone(),
                number: former.number,
                holder: Some(loser.clone()),
                kind: former.kind().cloned(),
                reason: Reason::Conflict(Some(holder.clone())),
                goes_on: false,
            });
        }
        let number = self.next_number();
        let held = match spec {
            None => Held::Plain(holder.clone()),
            Some(spec) => Held::Child(Box::new(running(spec, holder, former.as_ref()))),
        };
        let kind = spec.as_ref().map(|spec| spec.kind.clone());
        self.put(name.clone(), Claim { number, value: value.clone(), held, since: *since });
        news.push(News::Registered { name: name.clone(), number, holder: holder.clone(), kind });
        news
    }
}

fn running(spec: &Arc<crate::names::claim::Spec>, holder: &Holder, former: Option<&Claim>) -> Child {
    let former = former.and_then(Claim::child).filter(|former| former.spec == *spec);
    Child {
        spec: Arc::clone(spec),
        stage: Stage::Running { holder: holder.clone() },
        restarts: former.map_or(0, |former| former.restarts),
        handed: former.map_or_else(Default::default, |former| former.handed.clone()),
    }
}

fn change(brought: &Brought, in_place_of: Option<ClaimNumber>) -> Change {
    Change::Brought { brought: Box::new(brought.clone()), in_place_of }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{Boot, Kind, NodeName};
    use crate::names::claim::Spec;
    use crate::names::name::Name;
    use crate::names::placement::Placing;
    use crate::supervision::Restart;

    fn node(number: u64) -> NodeBoot {
        NodeBoot::new(NodeName::new(&format!("n{number}")).unwrap(), Boot(number))
    }

    fn holder(on: u64, actor: u64) -> Holder {
        Holder { node: node(on), actor }
    }

    fn spec(kind: &str) -> Arc<Spec> {
        Arc::new(Spec {
            kind: Kind::new(kind).unwrap(),
            args: Bytes::new(),
            restart: Restart::Permanent,
            restarts_max: 5,
            window: std::time::Duration::from_secs(30),
            placing: Placing::Uniform,
        })
    }

    fn brought(holder: Holder, spec: Option<Arc<Spec>>, since: u64) -> Brought {
        let (name, value) = (Name::new("a").unwrap(), Bytes::from_static(b"said"));
        Brought { name, holder, value, spec, since: UnixMillis(since) }
    }

    fn take(directory: &mut Directory, changes: &[Change]) -> Vec<News> {
        changes.iter().flat_map(|change| directory.apply(change)).collect()
    }

    /// A directory in which this was brought.
    fn with(one: &Brought) -> Directory {
        let mut directory = Directory::default().indexed();
        let Ok(Bringing::Stands(changes)) = directory.judge_bring(one, |_| true) else {
            panic!("it is free")
        };
        assert_eq!(take(&mut directory, &changes).len(), 1);
        assert_eq!(directory.judge_bring(one, |_| true), Ok(Bringing::Stands(Vec::new())), "twice is once");
        assert_eq!(directory.get(&one.name).unwrap().since, one.since);
        directory
    }

    #[test]
    fn who_is_brought_holds_a_free_name_and_one_that_is_held_is_contested() {
        for spec in [None, Some(spec("cart"))] {
            let (here, comes) =
                (brought(holder(1, 1), spec.clone(), 5), brought(holder(2, 1), spec.clone(), 3));
            let mut directory = with(&here);
            let Ok(Bringing::Contested(conflict)) = directory.judge_bring(&comes, |_| true) else {
                panic!("it is held")
            };
            assert_eq!((conflict.here.node, conflict.comes.node), (Some(node(1)), Some(node(2))));
            assert_eq!((conflict.here.since, conflict.comes.since), (UnixMillis(5), UnixMillis(3)));
            let (none, refused) = directory.settle_bring(&comes, Some(Winner::Here)).unwrap_err();
            assert!(none.is_empty());
            assert!(
                matches!(refused, Refused::AlreadyRegistered { holder: Some(by), .. } if by == here.holder)
            );
            let changes = directory.settle_bring(&comes, Some(Winner::Comes)).unwrap();
            let news = take(&mut directory, &changes);
            let reason = Reason::Conflict(Some(comes.holder.clone()));
            assert!(
                matches!(&news[0], News::Unregistered { holder: Some(by), reason: why, goes_on: false, .. }
                if *by == here.holder && *why == reason)
            );
            assert!(matches!(&news[1], News::Registered { holder: by, .. } if *by == comes.holder));
            assert!(directory.apply(&changes[0]).is_empty(), "it was in place of that, and no more");
            let left: Vec<_> = directory.nodes().cloned().collect();
            assert_eq!(left, [node(2)]);
        }
    }

    #[test]
    fn where_it_cannot_be_told_who_keeps_it_a_name_is_free_and_a_child_stays() {
        let (here, comes) = (brought(holder(1, 1), None, 5), brought(holder(2, 1), None, 3));
        let mut directory = with(&here);
        let (changes, refused) = directory.settle_bring(&comes, None).unwrap_err();
        assert!(matches!(refused, Refused::AlreadyRegistered { holder: None, .. }));
        let news = take(&mut directory, &changes);
        assert!(matches!(&news[..], [News::Unregistered { reason: Reason::Conflict(None), .. }]));
        assert!(directory.is_empty());

        let (here, comes) = (brought(holder(1, 1), Some(spec("cart")), 5), brought(holder(2, 1), None, 3));
        let (changes, _) = with(&here).settle_bring(&comes, None).unwrap_err();
        assert!(changes.is_empty());
    }

    #[test]
    fn a_child_that_waits_is_run_by_whoever_is_brought_and_one_that_is_to_end_is_not() {
        let one = brought(holder(2, 1), Some(spec("cart")), 3);
        let mut directory = Directory::default();
        let added =
            directory.judge_start(&one.name, one.spec.as_ref().unwrap(), &Bytes::new()).unwrap().unwrap();
        directory.apply(&added);
        let Ok(Bringing::Stands(changes)) = directory.judge_bring(&one, |_| true) else { panic!("it waits") };
        assert_eq!(take(&mut directory, &changes).len(), 1);
        let stopping = directory.judge_terminate(&one.name).unwrap().unwrap();
        directory.apply(&stopping);
        let other = brought(holder(3, 1), one.spec, 1);
        assert!(matches!(directory.judge_bring(&other, |_| true), Err(Refused::AlreadyRegistered { .. })));
        let stranger = directory.judge_bring(&other, |_| false);
        assert_eq!(stranger, Err(Refused::NoMember(node(3))));
    }

    #[test]
    fn one_that_is_only_about_to_run_has_run_for_no_time() {
        let mut directory = Directory::default();
        let comes = brought(holder(2, 1), Some(spec("cart")), 3);
        let name = comes.name.clone();
        let added =
            directory.judge_start(&name, comes.spec.as_ref().unwrap(), &Bytes::new()).unwrap().unwrap();
        directory.apply(&Change::Clock { at: UnixMillis(1) });
        directory.apply(&added);
        directory.apply(&Change::Ordered { name: name.clone(), number: ClaimNumber(1), node: node(1) });
        let Ok(Bringing::Contested(conflict)) = directory.judge_bring(&comes, |_| true) else {
            panic!("held")
        };
        assert_eq!(crate::names::conflict::Rule::Oldest.decide(&conflict), Winner::Comes);
        directory.apply(&Change::Clock { at: UnixMillis(2) });
        directory.apply(&Change::Started { name: name.clone(), number: ClaimNumber(2), actor: 4 });
        assert_eq!(directory.get(&name).unwrap().since, UnixMillis(2));
        assert_eq!(directory.clock(), UnixMillis(2));
    }
}
