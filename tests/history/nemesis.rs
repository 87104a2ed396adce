//! What happens to nodes, one at a time, as a seed says: never so much that too few copies would be left.

use std::thread;
use std::time::{Duration, Instant};

use super::super::harness::Cluster;
use super::Chance;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Killed, and started again later.
    Kill,
    /// Killed, and started again at once.
    Restart,
    /// Stopped in its tracks, and let go later.
    Freeze,
    /// Cut off from all others, and reached again later.
    Cut,
    /// Cut off from one of the others.
    CutOne,
}

/// Makes trouble until the time is over; then all nodes run, and serve everything. Says what it did.
pub fn rage(cluster: &mut Cluster, seed: u64, lasting: Duration) -> Vec<String> {
    let mut chance = Chance::new(seed);
    let (begun, mut done) = (Instant::now(), Vec::new());
    while begun.elapsed() < lasting {
        thread::sleep(Duration::from_millis(chance.below(400)));
        let victim = chance.below(cluster.len() as u64) as usize;
        let trouble = *chance.pick(&[
            Trouble::Kill,
            Trouble::Restart,
            Trouble::Freeze,
            Trouble::Freeze,
            Trouble::Cut,
            Trouble::CutOne,
        ]);
        // Short and long: within a lease, about as long, and so long that others take over.
        let pause = Duration::from_millis(*chance.pick(&[30, 300, 1200, 1700, 2500, 3500]));
        done.push(format!("{:?}: {trouble:?} of {victim} for {pause:?}", begun.elapsed()));
        let others: Vec<usize> = (0..cluster.len()).filter(|other| *other != victim).collect();
        match trouble {
            Trouble::Kill => {
                cluster.kill9(victim);
                thread::sleep(pause);
                cluster.launch(victim);
            }
            Trouble::Restart => cluster.restart(victim),
            Trouble::Freeze => {
                cluster.freeze(victim);
                thread::sleep(pause);
                cluster.thaw(victim);
            }
            Trouble::Cut => {
                cluster.cut(victim, &others);
                thread::sleep(pause);
                cluster.heal();
            }
            Trouble::CutOne => {
                cluster.cut(victim, &[*chance.pick(&others)]);
                thread::sleep(pause);
                cluster.heal();
            }
        }
        // Whoever lost its memory must have it again before the next one may. The others lost nothing: sometimes the next
        // trouble comes before this one is over.
        let forgot = matches!(trouble, Trouble::Kill | Trouble::Restart);
        if forgot || chance.below(2) == 0 {
            cluster.wait_until_settled();
        }
    }
    cluster.wait_until_settled();
    done
}
