//! The example of a singleton, as four processes: whoever has the machine is stopped, and then killed, and no ticket is ever
//! given twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use harness::ports;
use harness::{PATIENCE, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// A node of the example. Nothing of it survives the test.
struct Drawer {
    name: String,
    process: Child,
    lines: Receiver<String>,
}

/// Fence, number, and on which node it was given out.
type Ticket = (u64, u64, String);

impl Drawer {
    fn start(name: &str, addresses: &[&str]) -> Self {
        let built = Path::new(env!("CARGO_BIN_EXE_tumen")).with_file_name("examples").join("singleton");
        let mut command = Command::new(built);
        // On a busy machine whoever is well may be silent for longer than a short lease.
        command.arg(name).args(addresses).env("TUMEN_LEASE", "5s").stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let told = process.stdout.take().unwrap();
        let (to, lines) = channel();
        // Ends with the process.
        thread::spawn(move || {
            BufReader::new(told).lines().map_while(Result::ok).all(|line| to.send(line).is_ok())
        });
        Self { name: name.to_owned(), process, lines }
    }

    /// The next ticket that it drew.
    fn draw(&self) -> Ticket {
        wait_until(&format!("{} draws a ticket", self.name), PATIENCE, || {
            let line = self.lines.recv_timeout(PATIENCE).map_err(|why| why.to_string())?;
            ticket(&line).ok_or(line)
        })
    }
}

fn ticket(line: &str) -> Option<Ticket> {
    let (number, from) = line.strip_prefix("ticket ")?.split_once(", given out on ")?;
    let (fence, number) = number.split_once('.')?;
    Some((fence.parse().ok()?, number.parse().ok()?, from.to_owned()))
}

impl Drop for Drawer {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn no_ticket_is_given_twice() {
    let addresses: Vec<String> = (0..4).map(|_| ports::take()).collect();
    let start = |number: usize| {
        let told: Vec<&str> =
            addresses[number..=number].iter().chain(&addresses[..1]).map(String::as_str).collect();
        Drawer::start(&format!("node-{}", number + 1), if number == 0 { &told[..1] } else { &told })
    };
    let mut drawers: Vec<Drawer> = (0..4).map(start).collect();
    let mut drawn = BTreeSet::new();
    let mut draw = |drawers: &[Drawer]| -> Ticket {
        let tickets = drawers.iter().map(Drawer::draw);
        tickets.fold((0, 0, String::new()), |last, ticket| {
            assert!(drawn.insert((ticket.0, ticket.1)), "{ticket:?} is given twice");
            last.max(ticket)
        })
    };
    draw(&drawers);
    let before = draw(&drawers);

    // The node that has the machine stops in good order: the numbers go on.
    let of = |drawers: &[Drawer], name: &str| drawers.iter().position(|it| it.name == name).unwrap();
    let mut stopped = drawers.remove(of(&drawers, &before.2));
    kill_process(Pid::from_child(&stopped.process), Signal::TERM).unwrap();
    let mut after = draw(&drawers);
    // What was drawn before, and not read yet, comes first.
    while after.0 == before.0 {
        after = draw(&drawers);
    }
    assert!(after.0 > before.0 && after.1 > before.1 && after.2 != before.2, "{after:?} after {before:?}");
    // It ends once others vote in its stead: from then on three do, who can do without any one of them.
    assert!(stopped.process.wait().unwrap().success());

    // Whoever has it now is killed: another one is there, which begins anew.
    let before = draw(&drawers);
    drop(drawers.remove(of(&drawers, &before.2)));
    let mut after = draw(&drawers);
    while after.0 == before.0 {
        after = draw(&drawers);
    }
    assert!(after.0 > before.0 && after.2 != before.2, "{after:?} after {before:?}");
}
