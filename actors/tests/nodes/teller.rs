//! A kind of child that says where it runs, under which number, and how often it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::names::child::{ChildHost, ChildKinds, ChildPlace, NotMade};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{GroupId, Kind};
use tumen_core::names::placement::Placing;
use tumen_core::names::{self, Spec};
use tumen_core::partitions::request::{MessageId, Reply};
use tumen_core::supervision::Restart;

use super::{kinds, settings, show_logs};
use tumen_actors::node::{Runtime, Settings};
use tumen_actors::transport::simulated::World;

/// How many instances run, of all kinds and nodes.
pub static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Teller {
    place: ChildPlace,
    count: u64,
    over: Option<Result<(), String>>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ChildHost for Teller {
    fn handle(&mut self, _: MessageId, body: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            match body.as_ref() {
                b"panic" => panic!("told to"),
                b"stop" => self.over = Some(Ok(())),
                b"fail" => self.over = Some(Err("told to".into())),
                b"wait" => tokio::time::sleep(Duration::from_secs(1)).await,
                _ => {}
            }
            self.count += 1;
            Ok(format!("{} {} {}", self.place.node.node, self.place.number, self.count).into())
        })
    }

    fn over(&mut self) -> Option<Result<(), String>> {
        self.over.take()
    }

    fn stop(&mut self, moves: bool) -> BoxFuture<'_, Option<Bytes>> {
        let handed = moves.then(|| Bytes::from(self.count.to_string()));
        Box::pin(async move { handed })
    }
}

/// `teller` starts as its arguments say: at once, never, or not.
pub fn children() -> ChildKinds {
    let start = |place: ChildPlace| -> BoxFuture<'static, Result<Box<dyn ChildHost>, NotMade>> {
        Box::pin(async move {
            match place.args.as_ref() {
                b"ignore" => return Err(NotMade::Ignored),
                b"fail" => return Err(NotMade::Failed("told to".into())),
                b"panic" => panic!("told to"),
                b"slow" => tokio::time::sleep(Duration::from_secs(5)).await,
                b"never" => std::future::pending().await,
                _ => {}
            }
            RUNNING.fetch_add(1, Ordering::SeqCst);
            let count =
                std::str::from_utf8(&place.handed).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            Ok(Box::new(Teller { place, count, over: None }) as Box<dyn ChildHost>)
        })
    };
    ChildKinds::new(vec![(kind(), Arc::new(start))]).expect("one")
}

pub fn kind() -> Kind {
    Kind::new("teller").expect("valid")
}

pub fn spec(args: &str, restart: Restart) -> Spec {
    Spec {
        kind: kind(),
        args: Bytes::copy_from_slice(args.as_bytes()),
        restart,
        restarts_max: 5,
        window: Duration::from_secs(30),
        placing: Placing::Uniform,
    }
}

/// A node's settings, with names and children.
pub fn named(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Settings {
    let mut settings = settings(world, n, seeds, min_nodes);
    settings.groups.push((GroupId::Names, names::group_spec(Mode::Sync)));
    settings.children = children();
    settings
}

pub async fn start_named(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Runtime {
    Runtime::start(named(world, n, seeds, min_nodes), kinds()).await.expect("valid")
}

pub async fn named_cluster(world: &World, n: usize) -> Vec<Runtime> {
    show_logs();
    let mut nodes = vec![start_named(world, 1, &[], n).await];
    for at in 2..=n {
        nodes.push(start_named(world, at, &[1], 1).await);
    }
    super::all_ready(&nodes).await;
    nodes
}
