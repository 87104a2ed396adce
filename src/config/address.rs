//! Where ports listen, and where other nodes are reached.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::Value;

/// Where something is reached: a host's name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port; 0 where the system shall choose one to listen at.
    pub port: u16,
}

impl Address {
    /// This host and this port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Whether only this machine reaches it. A name other than `localhost` is not resolved: it is not.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Whether it stands for every address of this machine: `0.0.0.0`, `[::]`, or no host at all.
    pub fn is_unspecified(&self) -> bool {
        self.host.is_empty() || self.ip().is_some_and(|ip| ip.to_canonical().is_unspecified())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Splits `host:port` or `[v6]:port`; the host may be missing.
    fn split(text: &str) -> Result<Self, String> {
        let refuse =
            || Err("is no address: write HOST:PORT, such as 127.0.0.1:7100 or [::1]:7100".to_owned());
        let Some((host, port)) = text.rsplit_once(':') else { return refuse() };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            None if host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) => {
                host
            }
            _ => return refuse(),
        };
        if host.len() > 253 || port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return refuse();
        }
        match port.parse() {
            Ok(port) => Ok(Self::new(host, port)),
            Err(_) => Err("has a port above 65535".into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Value for Address {
    const SHAPE: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        let address = Self::split(text)?;
        if address.is_unspecified() {
            return Err("names no host that can be reached: write HOST:PORT".into());
        }
        if address.port == 0 {
            return Err("has port 0, which nobody can reach".into());
        }
        Ok(address)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Where to listen: `HOST:PORT`, or `:PORT` for every address of this machine; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(pub Address);

impl Value for Listen {
    const SHAPE: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        Address::split(text).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Where to serve HTTP, if at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Http {
    /// Nowhere.
    Off,
    /// Here.
    At(Address),
}

impl Http {
    /// Where, if anywhere.
    pub const fn address(&self) -> Option<&Address> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl Value for Http {
    const SHAPE: &'static str = "HOST:PORT|off";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" { Ok(Self::Off) } else { Address::split(text).map(Self::At) }
    }

    fn show(&self) -> String {
        self.address().map_or_else(|| "off".to_owned(), Address::to_string)
    }
}

/// A node to join by: its cluster port (`HOST:PORT`), or its HTTP interface (`http://HOST:PORT`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// A cluster port.
    Cluster(Address),
    /// An HTTP interface, which tells the cluster's addresses.
    Http(Address),
}

impl Value for Seed {
    const SHAPE: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("http://") {
            Some(rest) => Address::parse(rest.trim_end_matches('/')).map(Self::Http),
            None => Address::parse(text).map(Self::Cluster),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Cluster(address) => address.to_string(),
            Self::Http(address) => format!("http://{address}"),
        }
    }
}

/// Another node's HTTP interface; `http://` may stand before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSeed(pub Address);

impl Value for HttpSeed {
    const SHAPE: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        Address::parse(rest.trim_end_matches('/')).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["127.0.0.1:7100", "localhost:1", "[::1]:7100", "node-1.shop_a.svc:65535"] {
            assert_eq!(Address::parse(good).unwrap().to_string(), good);
        }
        for bad in
            ["", "7100", "a:", ":7100", "a:0", "0.0.0.0:1", "[::]:1", "::1:7100", "a b:1", "a:65536", "a:-1"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Listen::parse(":8080").unwrap().0, Address::new("", 8080));
        for (text, loopback, unspecified) in [
            ("127.0.0.1:1", true, false),
            ("127.9.9.9:1", true, false),
            ("[::1]:1", true, false),
            ("[::ffff:127.0.0.1]:1", true, false),
            ("localhost:1", true, false),
            ("10.0.0.1:1", false, false),
            ("example.org:1", false, false),
            ("0.0.0.0:1", false, true),
            ("[::]:1", false, true),
            (":1", false, true),
        ] {
            let address = Listen::parse(text).unwrap().0;
            assert_eq!((address.is_loopback(), address.is_unspecified()), (loopback, unspecified), "{text}");
        }
    }

    #[test]
    fn seeds_may_be_urls_and_lists_drop_what_stands_twice() {
        let seeds = Vec::<Seed>::parse("10.0.0.2:7100, http://10.0.0.3:8080/,10.0.0.2:7100,").unwrap();
        assert_eq!(seeds.show(), "10.0.0.2:7100,http://10.0.0.3:8080");
        assert!(Vec::<Seed>::parse("a:1,b").unwrap_err().starts_with("names \"b\", which is no address"));
        let many = (1..=1_025).map(|n| format!("host-{n}:1")).collect::<Vec<_>>();
        assert!(Vec::<Seed>::parse_all(&many).is_err());
    }
}
