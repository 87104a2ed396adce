//! Free ports of this machine.

use std::net::{Ipv4Addr, TcpListener};

/// Where ports are looked for: below those that systems give to outgoing connections, so that a node that is started
/// again finds its port as it left it.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Ports that nobody else has, for as long as this is held.
#[derive(Default)]
pub struct Held(Vec<TcpListener>);

impl Held {
    /// One more, as an address of this machine.
    pub fn take(&mut self) -> String {
        let listener = listen();
        let address = listener.local_addr().unwrap().to_string();
        self.0.push(listener);
        address
    }
}

/// How far above its HTTP port a node's cluster port is, if it is told the first one only.
const CLUSTER_ABOVE_HTTP: u16 = 10_000;

impl Held {
    /// An address for HTTP, above which the port that follows from it for the cluster is free as well.
    pub fn take_pair(&mut self) -> String {
        loop {
            let http = listen();
            let address = http.local_addr().unwrap();
            let above = (Ipv4Addr::LOCALHOST, address.port() + CLUSTER_ABOVE_HTTP);
            if !PORTS.contains(&above.1) {
                continue;
            }
            if let Ok(cluster) = TcpListener::bind(above) {
                self.0.extend([http, cluster]);
                return address.to_string();
            }
        }
    }
}

/// A listener on a free port.
pub fn listen() -> TcpListener {
    loop {
        let port = rand::random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
}
