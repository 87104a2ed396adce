//! The built-in kind of child `echo`: says where it runs, and how often it was asked, so that children and singletons can be
//! tried before anybody writes Rust.
//!
//! ```text
//!  POST /children {"name":"a","kind":"echo"}   ─▶ runs, somewhere
//!  POST /children/a/echo  hello                ─▶ {"name":"a","node":"node-2","fence":1,"count":1,"text":"hello",..}
//!                         crash                ─▶ it panics: what its restart says follows
//!                         stop                 ─▶ it answers, and ends in good order: the same
//! ```
//!
//! A node hosts it if its builder says [`echo()`](crate::Builder::echo); the command `tumen node` does.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Child, ChildContext, Receive, Receives, text_of};
use crate::error::Result;
use crate::worker::Message;

/// The text that makes an echo panic, in the middle of the message.
pub const CRASH: &str = "crash";
/// The text after which an echo ends in good order, once it has answered.
pub const STOP: &str = "stop";

/// Say this back. Two texts mean more: [`CRASH`] and [`STOP`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Say {
    /// What.
    pub text: String,
}

/// What an echo answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echoed {
    /// The name under which it runs.
    pub name: String,
    /// The node that it runs on.
    pub node: String,
    /// Its fence: larger for each later instance.
    pub fence: u64,
    /// How many messages were answered under this name, this one included: by this instance, and by those before it that
    /// handed their count over. An instance that crashed, or whose node died, did not.
    pub count: u64,
    /// What it was told.
    pub text: String,
    /// What it was started with.
    pub args: String,
}

impl Message for Say {
    type Reply = Echoed;

    fn name() -> &'static str {
        "tumen.echo.say"
    }
}

/// One echo. Its arguments are free text, which it shows and does nothing with.
#[derive(Debug)]
pub struct Echo {
    args: String,
    count: u64,
}

impl Echo {
    /// What it receives.
    pub(crate) fn receives(receives: Receives<Self>) -> Receives<Self> {
        receives.receives::<Say>()
    }
}

impl Child for Echo {
    const KIND: &'static str = "echo";
    type Args = String;

    async fn start(args: String, cx: &mut ChildContext<Self>) -> Result<Self> {
        let handed =
            cx.handed().and_then(|handed| Some(u64::from_le_bytes(handed.as_ref().try_into().ok()?)));
        Ok(Self { args, count: handed.unwrap_or(0) })
    }

    async fn on_handover(&mut self, _: &mut ChildContext<Self>) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&self.count.to_le_bytes()))
    }
}

impl Receive<Say> for Echo {
    async fn receive(&mut self, Say { text }: Say, cx: &mut ChildContext<Self>) -> Result<Echoed> {
        match &*text {
            CRASH => panic!("it was told to"),
            STOP => cx.stop(),
            _ => {}
        }
        self.count += 1;
        Ok(Echoed {
            name: text_of(cx.name().as_bytes()),
            node: cx.node().to_string(),
            fence: cx.fence().0,
            count: self.count,
            text,
            args: self.args.clone(),
        })
    }
}
