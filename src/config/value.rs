//! What a knob's text may say: lengths of time, numbers, addresses, secrets, lists.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tumen_core::cluster::coordinator::{CrashProof, Create, Rebalance};
use tumen_core::cluster::member::Zone;
use tumen_core::cluster::sides::Consistency;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::names::conflict::Rule;
use tumen_core::partitioner::Partitioner;
use tumen_core::{ClusterName, NodeName};

/// A type that knobs may have: read from text, shown as text.
///
/// What `parse` answers continues the sentence that begins with the knob and the value given:
/// `--lease soon` … `is no length of time: …`.
pub trait Value: Sized {
    /// What stands for the value in a usage line.
    const SHAPE: &'static str;
    /// Whether several values may be given.
    const LIST: bool = false;
    /// Whether the value must never be shown.
    const SECRET: bool = false;

    /// Reads one value.
    fn parse(text: &str) -> Result<Self, String>;

    /// Reads what was given, which is one value unless this is a list.
    fn parse_all(texts: &[String]) -> Result<Self, String> {
        match texts {
            [one] => Self::parse(one),
            _ => Err("takes one value, not a list".into()),
        }
    }

    /// The value as it would be written.
    fn show(&self) -> String;

    /// The value in `GET /config`.
    fn json(&self) -> Json {
        Json::String(self.show())
    }

    /// Whether the value lies between two others, both included.
    fn within(&self, low: &str, high: &str) -> bool {
        let _ = (low, high);
        true
    }
}

impl Value for Duration {
    const SHAPE: &'static str = "TIME";

    fn parse(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "" if !number.is_empty() => {
                return Err(format!("has no unit: write {text}ms or {text}s"));
            }
            _ => return Err(NO_TIME.into()),
        };
        millis(number, factor).map(Self::from_millis)
    }

    fn show(&self) -> String {
        let millis = self.as_millis();
        match (millis / 1_000, millis % 1_000) {
            (0, millis) if millis > 0 => format!("{millis}ms"),
            (seconds, 0) => format!("{seconds}s"),
            (seconds, rest) => format!("{seconds}.{}s", format!("{rest:03}").trim_end_matches('0')),
        }
    }

    fn within(&self, low: &str, high: &str) -> bool {
        let bound = |text| Self::parse(text).expect("the bounds in the table are lengths of time");
        (bound(low)..=bound(high)).contains(self)
    }
}

const NO_TIME: &str = "is no length of time: write a number and its unit, such as 1500ms, 1.5s, 30s or 2m";

/// `number` × `factor` in whole milliseconds. No floats, so that `0.1s` is 100 ms exactly.
fn millis(number: &str, factor: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || (number.contains('.') && !digits(fraction)) {
        return Err(NO_TIME.into());
    }
    let fraction = fraction.trim_end_matches('0');
    let Some(scale) = u32::try_from(fraction.len()).ok().and_then(|places| 10_u128.checked_pow(places))
    else {
        return Err(TOO_FINE.into());
    };
    let parts = format!("{whole}{fraction}").parse().ok().and_then(|n: u128| n.checked_mul(factor.into()));
    match parts {
        Some(parts) if parts % scale != 0 => Err(TOO_FINE.into()),
        Some(parts) => u64::try_from(parts / scale).map_err(|_| TOO_LONG.into()),
        None => Err(TOO_LONG.into()),
    }
}

const TOO_FINE: &str = "is finer than a millisecond";
const TOO_LONG: &str = "is longer than can be counted";

impl Value for u32 {
    const SHAPE: &'static str = "NUMBER";

    fn parse(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return Err("is no whole number".into());
        }
        text.parse().map_err(|_| "is too large a number".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Json {
        Json::from(*self)
    }

    fn within(&self, low: &str, high: &str) -> bool {
        let bound = |text| <Self as Value>::parse(text).expect("the bounds in the table are numbers");
        (bound(low)..=bound(high)).contains(self)
    }
}

impl Value for u64 {
    const SHAPE: &'static str = "NUMBER";

    fn parse(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return Err("is no whole number".into());
        }
        text.parse().map_err(|_| "is too large a number".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Json {
        Json::from(*self)
    }

    fn within(&self, low: &str, high: &str) -> bool {
        let bound = |text| <Self as Value>::parse(text).expect("the bounds in the table are numbers");
        (bound(low)..=bound(high)).contains(self)
    }
}

/// Implements [`Value`] for a type by its `FromStr` and its `Display`.
macro_rules! text_values {
    ($($type:ty, $shape:literal;)*) => {$(
        impl Value for $type {
            const SHAPE: &'static str = $shape;
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|why| format!("cannot be taken: {why}"))
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

text_values! {
    NodeName, "NAME";
    ClusterName, "NAME";
}

/// Implements [`Value`] for a small enum with one word per variant.
macro_rules! words {
    ($($type:ident, $shape:literal { $($variant:ident = $word:literal,)* })*) => {$(
        impl Value for $type {
            const SHAPE: &'static str = $shape;
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(concat!("is unknown here: choose ", $shape).into()),
                }
            }
            fn show(&self) -> String {
                match self { $(Self::$variant => $word.to_owned(),)* }
            }
        }
    )*};
}

words! {
    Create, "auto|manual" { Auto = "auto", Manual = "manual", }
    Rebalance, "auto|manual" { Auto = "auto", Manual = "manual", }
    CrashProof, "loopback|always|never" { Loopback = "loopback", Always = "always", Never = "never", }
    Consistency, "majority|available" { Majority = "majority", Available = "available", }
    Rule, "oldest|newest" { Oldest = "oldest", Newest = "newest", }
    Mode, "async|sync|strong" { Async = "async", Sync = "sync", Strong = "strong", }
    LogFormat, "text|json" { Text = "text", Json = "json", }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Value for Partitioner {
    const SHAPE: &'static str = "hash|range:LOW..HIGH";

    fn parse(text: &str) -> Result<Self, String> {
        // What the law says of it would repeat the knob's name.
        text.parse()
            .map_err(|_| "is no partitioner: write hash, or range:LOW..HIGH such as range:0..10000".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Zone {
    const SHAPE: &'static str = "ZONE";

    fn parse(text: &str) -> Result<Self, String> {
        // A zone is named like a node: it stands in the same tables and in the same gossip.
        NodeName::new(text)
            .map_err(|why| format!("is no zone: {}", why.to_string().replace("node name", "zone")))?;
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const SHAPE: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is no path".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for String {
    const SHAPE: &'static str = "TEXT";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// More seeds than this are a mistake: one living node of them is enough.
const SEEDS_MAX: usize = 1_024;

impl<T: Value + PartialEq> Value for Vec<T> {
    const SHAPE: &'static str = T::SHAPE;
    const LIST: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse_all(&[text.to_owned()])
    }

    fn parse_all(texts: &[String]) -> Result<Self, String> {
        let mut list = Self::new();
        for text in texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|t| !t.is_empty()) {
            let one = T::parse(text).map_err(|why| format!("names {text:?}, which {why}"))?;
            if !list.contains(&one) {
                list.push(one);
            }
        }
        if list.len() > SEEDS_MAX {
            return Err(format!("names {} of them; {SEEDS_MAX} are the most", list.len()));
        }
        Ok(list)
    }

    fn show(&self) -> String {
        self.iter().map(Value::show).collect::<Vec<_>>().join(",")
    }

    fn json(&self) -> Json {
        self.iter().map(Value::json).collect()
    }
}

/// A shared secret. It is never shown: neither by `Debug` nor in `GET /config`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

/// The most bytes that a secret may have.
pub(super) const SECRET_LEN_MAX: usize = 4_096;

/// A secret of fewer bytes can be guessed by whoever sees one greeting on the wire.
pub(super) const SECRET_LEN_GOOD: usize = 16;

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Value for Secret {
    const SHAPE: &'static str = "SECRET";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("is empty".into()),
            len if len > SECRET_LEN_MAX => Err(format!("has {len} bytes; {SECRET_LEN_MAX} are the most")),
            _ if text.chars().any(char::is_control) => Err("holds a control character".into()),
            _ => Ok(Self(text.into())),
        }
    }

    fn show(&self) -> String {
        "redacted".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Result<u128, String> {
        Duration::parse(text).map(|time| time.as_millis())
    }

    #[test]
    fn lengths_of_time_need_a_unit_and_are_exact() {
        for (text, millis) in [
            ("1500ms", 1_500),
            ("1.5s", 1_500),
            ("30s", 30_000),
            ("0s", 0),
            ("0.1s", 100),
            ("0.001s", 1),
            ("1.50s", 1_500),
            ("1.0ms", 1),
            ("2m", 120_000),
            ("0.5m", 30_000),
            ("0.25h", 900_000),
        ] {
            assert_eq!(time(text), Ok(millis), "{text}");
        }
        for text in ["", "s", "ms", "-1s", "1 s", "1.s", ".5s", "1.2.3s", "1e3s", "5x", "soon", "1µs"] {
            assert!(time(text).unwrap_err().contains("no length of time"), "{text}");
        }
        assert!(time("1500").unwrap_err().contains("has no unit: write 1500ms"));
        assert!(time("0.0005s").unwrap_err().contains("finer"));
        assert!(time("0.5ms").unwrap_err().contains("finer"));
        assert!(time("99999999999999999999s").unwrap_err().contains("longer"));
        assert!(time("18446744073709551615h").unwrap_err().contains("longer"));
    }

    #[test]
    fn lengths_of_time_are_shown_as_they_are_read() {
        for text in ["0s", "1ms", "50ms", "1s", "1.5s", "1.05s", "1.001s", "30s", "86400s"] {
            assert_eq!(Duration::parse(text).unwrap().show(), text);
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = Secret::parse("swordfish").unwrap();
        assert_eq!(secret.expose(), "swordfish");
        assert!(!format!("{secret:?} {} {}", secret.show(), secret.json()).contains("sword"));
    }

    #[test]
    fn partitioners() {
        assert_eq!(Partitioner::parse("hash"), Ok(Partitioner::Hash));
        assert_eq!(Partitioner::parse("range:0..10000"), Ok(Partitioner::Range { low: 0, high: 10_000 }));
        for bad in ["", "range", "range:", "range:1", "range:a..b", "range:1..", "range:-1..5"] {
            assert!(Partitioner::parse(bad).is_err(), "{bad}");
        }
    }
}
