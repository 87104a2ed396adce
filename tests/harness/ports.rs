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

/// A listener on a free port.
pub fn listen() -> TcpListener {
    loop {
        let port = rand::random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
}
