//! What a session's client asks of its partition's primary, beside its requests.

use serde::{Deserialize, Serialize};

use crate::partitions::identity::SessionId;
use crate::partitions::request::MessageId;

/// One message about a session. It goes where requests go: to the partition's primary, under its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Open a session. Answered by its [`SessionId`], once that is there to stay.
    Open {
        /// Says which asking it is: asked again with the same one, it is the same session.
        nonce: u128,
    },
    /// The client lives, and has all its answers below `lowest`. Its answer says nothing.
    Acknowledge {
        /// Which session.
        session: SessionId,
        /// The lowest number that is still waited for.
        lowest: u64,
    },
    /// The session is not used any more. Its answer says nothing.
    End {
        /// Which session.
        session: SessionId,
    },
}

impl Ask {
    /// The message's name on the wire. No worker may handle one of this name.
    pub const NAME: &str = "tumen.session";

    /// The same as a number.
    pub fn message() -> MessageId {
        MessageId::of(Self::NAME)
    }
}
