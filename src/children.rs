//! Child processes that never outlive this one.
//!
//! ```text
//!  parent ── holds the pipe's writing end ──▶ child's stdin ──▶ at its end the child ends
//!    └─ dropped: killed by id; gone in any other way, even by kill -9: the system closes the pipe
//! ```

use std::io::{self, Read};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

/// A process that ends with this value, and with this process.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
}

impl Child {
    /// Starts a program that calls [`end_with_stdin`].
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::piped());
        // A process group of its own: Ctrl-C on the terminal reaches the parent only, which decides what follows.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        Ok(Self { process: command.spawn()? })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Where it reads, for a child that is told something. It stays here: when it is closed the child ends.
    pub(crate) fn input(&mut self) -> Option<&mut ChildStdin> {
        self.process.stdin.as_mut()
    }

    /// What it writes, if that was asked for. There is one; whoever takes it reads it.
    pub(crate) fn take_output(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    /// What the system calls its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Stops it in its tracks, or lets it run on.
    ///
    /// # Errors
    /// If it has ended, or the system knows no such thing.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, kill_process};
            let signal = if frozen { Signal::STOP } else { Signal::CONT };
            Ok(kill_process(Pid::from_child(&self.process), signal)?)
        }
        #[cfg(not(unix))]
        {
            let _ = frozen;
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Kills it as `kill -9` does, and returns once nothing is left of it: when the signal was sent.
    pub(crate) fn kill(mut self) -> Instant {
        let at = Instant::now();
        self.end();
        at
    }

    /// Kills it, and returns once nothing is left of it. Once it has ended this does nothing.
    pub(crate) fn end(&mut self) {
        // Both fail only where it has ended and been waited for already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// For children: ends this process, on the spot, when its standard input ends. For that is when its parent is gone, and
/// nobody is left to wait for a stop in good order.
pub(crate) fn end_with_stdin() -> io::Result<()> {
    let watch = || {
        let mut ignored = [0; 64];
        loop {
            match io::stdin().lock().read(&mut ignored) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => std::process::exit(0),
                Ok(_) => {}
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_child_ends_with_the_value_that_holds_it() {
        // `cat` too ends when its standard input does.
        let mut child = Child::spawn(Command::new("cat").stdout(Stdio::null())).unwrap();
        assert!(child.ended().is_none());
        drop(child.process.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.ended().is_none() {
            assert!(Instant::now() < deadline, "cat reads its closed input for ever");
            std::thread::yield_now();
        }
        let child = Child::spawn(Command::new("cat").stdout(Stdio::null())).unwrap();
        assert!(child.kill().elapsed() < Duration::from_secs(20));
    }
}
