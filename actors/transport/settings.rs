//! What can be set about a transport: each knob with its unit, default and neighbours.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tumen_core::cluster::transport::Backoff;

/// The secret that all nodes of a cluster share. It never crosses the wire and is never printed.
#[derive(Clone, Default)]
pub struct Cookie(Arc<[u8]>);

impl Cookie {
    /// Takes the cookie's bytes as they are.
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.into())
    }

    /// The cookie of nodes that were given none: it keeps nobody out, so such nodes serve loopback only.
    pub fn none() -> Self {
        Self::default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(…)")
    }
}

/// The transport's knobs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often a peer hears from this node at least. Default 250 ms.
    pub heartbeat_every: Duration,
    /// Silence after which a session is ended. Default 1.5 s. At least three times `heartbeat_every`, or one
    /// slow heartbeat ends a session. The end of a session is a suspicion, never a proof.
    pub silent_after: Duration,
    /// How long a new connection may take to say who it is. Default 3 s. Longer than `silent_after`, for the newcomer
    /// waits that long if its name is still held by a session that may be dead.
    pub preface_within: Duration,
    /// How many connections may be waiting to be known at once. Default 128. More are told that they are too many.
    pub strangers_max: usize,
    /// How long a dial may take until somebody answers. Default 1 s.
    pub dial_within: Duration,
    /// How long to wait between dials. Default 10 ms, doubled up to 1 s.
    pub backoff: Backoff,
    /// How long the node with the larger name leaves it to the other one to dial. Default 300 ms.
    pub patience: Duration,
    /// The most bytes that may be under way to one peer on its control lane. Default 4 MiB; at least twice
    /// [`super::CONTROL_LEN_MAX`].
    pub control_window: usize,
    /// The most requests that may be under way to one peer. Default 16,384.
    pub requests_max: usize,
    /// The most bytes of requests that may be under way to one peer, and the most bytes of replies that may
    /// wait for it. Default 32 MiB; at least [`super::DATA_LEN_MAX`].
    pub data_window: usize,
    /// The most bytes of one copy that may be under way. Default 1 MiB; at least twice [`super::CHUNK_LEN_MAX`].
    pub bulk_window: usize,
    /// The most copies that may be under way from one peer. Default 8.
    pub bulks_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_every: Duration::from_millis(250),
            silent_after: Duration::from_millis(1500),
            preface_within: Duration::from_secs(3),
            strangers_max: 128,
            dial_within: Duration::from_secs(1),
            backoff: Backoff::default(),
            patience: Duration::from_millis(300),
            control_window: 4 << 20,
            requests_max: 16_384,
            data_window: 32 << 20,
            bulk_window: 1 << 20,
            bulks_max: 8,
        }
    }
}

/// Two settings that do not fit together. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}, but {needs}")]
pub struct SettingsError {
    /// The knob to turn.
    pub setting: &'static str,
    /// What it is set to.
    pub value: String,
    /// What it has to be.
    pub needs: String,
}

impl Settings {
    /// Whether the settings fit together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let demand = |fits: bool, setting: &'static str, value: String, needs: String| {
            if fits { Ok(()) } else { Err(SettingsError { setting, value, needs }) }
        };
        let millis = |duration: Duration| format!("{} ms", duration.as_millis());
        demand(
            self.heartbeat_every >= Duration::from_millis(1),
            "heartbeat_every",
            millis(self.heartbeat_every),
            "at least 1 ms is needed".to_owned(),
        )?;
        demand(
            self.silent_after >= self.heartbeat_every * 3,
            "silent_after",
            millis(self.silent_after),
            format!("it must be at least three times heartbeat_every ({})", millis(self.heartbeat_every)),
        )?;
        demand(
            self.preface_within > self.silent_after,
            "preface_within",
            millis(self.preface_within),
            format!("it must be longer than silent_after ({})", millis(self.silent_after)),
        )?;
        let bytes: [(&'static str, usize, usize); 5] = [
            ("control_window", self.control_window, 2 * super::CONTROL_LEN_MAX),
            ("data_window", self.data_window, super::DATA_LEN_MAX),
            ("bulk_window", self.bulk_window, 2 * super::CHUNK_LEN_MAX),
            ("strangers_max", self.strangers_max, 1),
            ("requests_max", self.requests_max, 1),
        ];
        for (setting, value, least) in bytes {
            demand(value >= least, setting, value.to_string(), format!("at least {least} is needed"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_fit_together_are_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let hasty = Settings { silent_after: Duration::from_millis(300), ..Settings::default() };
        assert_eq!(hasty.check().unwrap_err().setting, "silent_after");
        let narrow = Settings { control_window: 100, ..Settings::default() };
        assert_eq!(narrow.check().unwrap_err().setting, "control_window");
    }

    #[test]
    fn a_cookie_is_never_printed() {
        assert!(!format!("{:?}", Cookie::new(b"secret")).contains("secret"));
    }
}
