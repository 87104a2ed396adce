//! What must hold between knobs, and the one pass that checks it.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tumen_core::NodeName;
use tumen_core::assignment::strategies;
use tumen_core::cluster::snapshot::Mode;

use super::layer::find;
use super::value::{SECRET_LEN_GOOD, SECRET_LEN_MAX};
use super::{
    Address, Config, ConfigErrors, Http, KNOBS, Knob, Layer, Listen, Origin, Origins, Partial, Problem,
    Secret, Seed, Source, Value, Warning,
};

/// How far the cluster port lies above the HTTP port where only that one is told.
const LISTEN_ABOVE_HTTP: u16 = 10_000;

/// Where the cluster port is if nothing is told.
const LISTEN_DEFAULT: (&str, u16) = ("127.0.0.1", 7100);

pub(super) fn resolve(mut layers: Vec<Layer>) -> Result<Config, ConfigErrors> {
    layers.sort_by(|a, b| a.source.cmp(&b.source));
    let brought: Vec<String> = layers.iter().flat_map(|layer| layer.strategies.clone()).collect();
    let mut check = Check::default();
    let mut values = check.lay_over_each_other(layers);
    check.bounds(&mut values);
    check.name(&mut values);
    check.secrets(&mut values);
    check.listen(&mut values);
    let config = values.complete(check.origins.clone(), Vec::new());
    let mut config = check.addresses(config);
    check.neighbours(&config);
    check.agreement(&config, &brought);
    check.sides(&config);
    check.disk_and_log(&config);
    check.expectations(&config);
    if check.problems.is_empty() {
        config.warnings = check.warnings;
        Ok(config)
    } else {
        Err(ConfigErrors(check.problems))
    }
}

/// The pass: what was found so far.
#[derive(Default)]
struct Check {
    origins: Origins,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Knobs that have a problem already. A rule about one of them would only repeat it.
    bad: Vec<&'static str>,
}

impl Check {
    fn lay_over_each_other(&mut self, layers: Vec<Layer>) -> Partial {
        let mut values = Partial::default();
        for layer in layers {
            let Layer { source, values: stronger, origins, unread, problems, warnings, .. } = layer;
            self.problems.extend(problems);
            self.warnings.extend(warnings);
            self.bad.extend(unread);
            values.overrule(stronger, |name, shown| {
                let typed = || Origin::typed(source.clone(), knob(name), shown);
                self.origins.insert(name, origins.get(name).cloned().unwrap_or_else(typed));
            });
        }
        values
    }

    fn bounds(&mut self, values: &mut Partial) {
        for (name, low, high) in values.drop_out_of_bounds() {
            let subject = self.subject(name, None);
            self.refuse(name, format!("{subject} must be from {low} to {high}"));
        }
    }

    fn name(&mut self, values: &mut Partial) {
        if values.name.is_none() {
            if !self.bad.contains(&"name") {
                let how = "give --name (or NODE_ID, or name in the file), different for each node";
                self.refuse("name", format!("the node has no name: {how}"));
            }
            values.name = NodeName::new("nameless").ok();
        }
    }

    fn secrets(&mut self, values: &mut Partial) {
        let Partial { cookie, cookie_file, http_token, http_token_file, .. } = values;
        self.secret("cookie", cookie, "cookie_file", cookie_file.as_deref());
        self.secret("http_token", http_token, "http_token_file", http_token_file.as_deref());
    }

    /// Takes the secret from its file where the file was told by the stronger source.
    fn secret(
        &mut self,
        name: &'static str,
        secret: &mut Option<Secret>,
        file_name: &'static str,
        file: Option<&Path>,
    ) {
        let source = |name: &str| self.origins.get(name).map(|origin| &origin.source);
        let path = match (source(name), source(file_name), file) {
            (said, Some(filed), Some(path)) if said < Some(filed) => path,
            (Some(said), Some(filed), Some(_)) if said == filed => {
                let (a, b) = (self.subject(name, None), self.subject(file_name, None));
                return self.refuse(name, format!("{b} and {a} are given both: choose one"));
            }
            _ => return self.weigh(name, secret.as_ref()),
        };
        match read_secret(path) {
            Ok((read, readable_by_others)) => {
                if readable_by_others {
                    self.warnings.push(Warning::ReadableSecret { path: path.to_owned() });
                }
                *secret = Some(read);
                self.weigh(name, secret.as_ref());
            }
            Err(why) => {
                let subject = self.subject(file_name, None);
                self.refuse(name, format!("{subject} {why}"));
            }
        }
    }

    fn weigh(&mut self, what: &'static str, secret: Option<&Secret>) {
        if let Some(len) = secret.map(|secret| secret.expose().len()).filter(|len| *len < SECRET_LEN_GOOD) {
            let what = if what == "cookie" { "cookie" } else { "HTTP token" };
            self.warnings.push(Warning::ShortSecret { what, len });
        }
    }

    /// Where only the HTTP port is told, the cluster port lies at a fixed distance from it.
    fn listen(&mut self, values: &mut Partial) {
        if values.listen.is_some() {
            return;
        }
        let listen = match &values.http {
            Some(Http::At(Address { host, port: 0 })) => Some(Address::new(host.clone(), 0)),
            Some(Http::At(Address { host, port })) => {
                port.checked_add(LISTEN_ABOVE_HTTP).map(|port| Address::new(host.clone(), port))
            }
            Some(Http::Off) | None => Some(Address::new(LISTEN_DEFAULT.0, LISTEN_DEFAULT.1)),
        };
        if listen.is_none() && !self.bad.contains(&"listen") {
            let http = self.subject("http", None);
            self.refuse(
                "listen",
                format!(
                    "{http} leaves no room {LISTEN_ABOVE_HTTP} above it for the cluster port: give --listen"
                ),
            );
        }
        values.listen = Some(Listen(listen.unwrap_or_else(|| Address::new(LISTEN_DEFAULT.0, 0))));
    }

    /// Keeps both ports on this machine, unless their secrets open them.
    fn addresses(&mut self, mut config: Config) -> Config {
        let cookie = config.cookie.is_some() || self.bad.contains(&"cookie");
        let token = config.http_token.is_some() || self.bad.contains(&"http_token");
        if !cookie {
            self.warnings.push(Warning::LoopbackOnly);
        }
        self.fence("listen", &mut config.listen.0, cookie, "cookie_file");
        if let Http::At(http) = &mut config.http {
            self.fence("http", http, token, "http_token_file");
        }
        if let Some(http) = config.http.address() {
            let listen = &config.listen.0;
            let same_host = listen.host == http.host || listen.is_unspecified() || http.is_unspecified();
            if listen.port == http.port && listen.port != 0 && same_host {
                self.must(&config, false, "listen", "must have another port than", "http");
            }
        }
        // The seeds of both kinds are told apart here, once.
        let (http, cluster) =
            config.join.drain(..).partition::<Vec<_>, _>(|seed| matches!(seed, Seed::Http(_)));
        config.join = cluster;
        for seed in http {
            if let Seed::Http(address) = seed {
                let seed = super::HttpSeed(address);
                if !config.known_nodes.contains(&seed) {
                    config.known_nodes.push(seed);
                }
            }
        }
        config
    }

    fn fence(&mut self, name: &'static str, address: &mut Address, open: bool, secret: &'static str) {
        if address.is_loopback() {
            return;
        }
        if open {
            if address.host.is_empty() {
                "0.0.0.0".clone_into(&mut address.host);
            }
            return;
        }
        if !self.origins.contains_key(name) {
            // Nobody asked for this port: it follows the other one, as far as it may.
            "127.0.0.1".clone_into(&mut address.host);
            return;
        }
        let subject = self.subject(name, None);
        let secret = self.spelling(secret, name);
        if address.is_unspecified() {
            "127.0.0.1".clone_into(&mut address.host);
            self.warnings.push(Warning::Narrowed { subject, taken: address.clone(), secret });
        } else {
            let local = Address::new("127.0.0.1", address.port);
            self.refuse(
                name,
                format!("{subject} reaches beyond this machine, which takes a secret: give {secret}, or use {local}"),
            );
        }
    }

    fn neighbours(&mut self, c: &Config) {
        let twice = |time: Duration| time.saturating_mul(2);
        let (min, max) = (c.election_timeout_min, c.election_timeout_max);
        self.must(
            c,
            min >= twice(c.heartbeat),
            "election_timeout_min",
            "must be at least twice",
            "heartbeat",
        );
        self.must(c, max > min, "election_timeout_max", "must exceed", "election_timeout_min");
        self.must(c, c.lease > twice(max), "lease", "must exceed twice", "election_timeout_max");
        self.must(c, c.stop_deadline > c.lease, "stop_deadline", "must exceed", "lease");
        let (probe, news) = (c.probe_interval, c.gossip_interval.saturating_mul(3));
        self.must(c, probe >= twice(c.probe_rtt), "probe_interval", "must be at least twice", "probe_rtt");
        self.must(c, c.suspicion >= probe, "suspicion", "must be at least", "probe_interval");
        self.must(c, c.suspicion >= news, "suspicion", "must be at least three times", "gossip_interval");
        let (node, all) = (c.handover_max, c.handover_total);
        self.must(c, all >= node, "handover_total", "must be at least", "handover_max");
        let (first, busy, most) = (c.join_window, c.join_window_busy, c.join_window_max);
        self.must(c, busy >= first, "join_window_busy", "must be at least", "join_window");
        self.must(c, most >= busy, "join_window_max", "must be at least", "join_window_busy");
    }

    fn agreement(&mut self, config: &Config, brought: &[String]) {
        let known = strategies::NAMES.iter().copied().chain(brought.iter().map(String::as_str));
        if !self.bad.contains(&"strategy") && !known.clone().any(|name| name == config.strategy) {
            let subject = self.subject("strategy", None);
            let known = known.collect::<Vec<_>>().join(", ");
            self.refuse("strategy", format!("{subject} is no strategy here: choose one of {known}"));
        }
        let wide_enough = config.partitioner.validate(config.partitions).is_ok();
        let relation = "must hold at least as many numbers as there are";
        self.must(config, wide_enough, "partitioner", relation, "partitions");
    }

    fn sides(&mut self, config: &Config) {
        let available = config.consistency.is_available();
        let fits = !available || config.mode == Mode::Async;
        self.must(
            config,
            fits,
            "consistency",
            "needs mode async, for sides do not wait for each other: not",
            "mode",
        );
        if available && config.data_dir.is_some() && !self.bad.contains(&"data_dir") {
            let subject = self.subject("data_dir", None);
            let why =
                "what a side keeps on disk would outlive it: leave it out, or choose --consistency majority";
            self.refuse("data_dir", format!("{subject} does not go with consistency available: {why}"));
        }
        if !available && config.is_given("conflicts") {
            let subject = self.subject("conflicts", None);
            self.warnings.push(Warning::NoEffect { subject, other: "consistency available".into() });
        }
    }

    fn disk_and_log(&mut self, config: &Config) {
        if config.data_dir.is_none() && config.is_given("rejoin_grace") && !config.rejoin_grace.is_zero() {
            let subject = self.subject("rejoin_grace", None);
            let other = self.spelling("data_dir", "rejoin_grace");
            self.warnings.push(Warning::NoEffect { subject, other });
        }
        if let Err(why) = EnvFilter::builder().parse(&config.log_filter) {
            let subject = self.subject("log_filter", None);
            self.refuse("log_filter", format!("{subject} is no log filter: {why}"));
        }
    }

    fn expectations(&mut self, config: &Config) {
        if let Some(nodes) = config.bootstrap_expect {
            self.warnings.extend(config.warnings_for(nodes));
        }
    }

    /// Both knobs and both values in one sentence, each in its source's own words, unless one is bad already.
    fn must(
        &mut self,
        config: &Config,
        holds: bool,
        name: &'static str,
        relation: &str,
        other: &'static str,
    ) {
        if holds || self.bad.contains(&name) || self.bad.contains(&other) {
            return;
        }
        let subject = self.subject(name, Some((config, other)));
        let neighbour = self.spelling(other, name);
        let value = config.shown(other).unwrap_or_default();
        let default = if self.origins.contains_key(other) { "" } else { ", the default" };
        self.problems.push(Problem::new(format!("{subject} {relation} {neighbour} ({value}{default})")));
    }

    /// The knob with its value. One that nobody spoke of is spelled as the source of its neighbour would.
    fn subject(&self, name: &str, neighbour: Option<(&Config, &str)>) -> String {
        match (self.origins.get(name), neighbour) {
            (Some(origin), _) => origin.subject(knob(name)),
            (None, Some((config, other))) => {
                let value = config.shown(name).unwrap_or_default();
                format!("{} ({value}, the default)", self.spelling(name, other))
            }
            (None, None) => knob(name).flag(),
        }
    }

    /// The knob alone. One that nobody spoke of is spelled as the source of its neighbour would.
    fn spelling(&self, name: &str, neighbour: &str) -> String {
        match (self.origins.get(name), self.origins.get(neighbour)) {
            (Some(origin), _) => origin.spelling(knob(name)),
            (None, Some(neighbour)) => neighbour.source.spell(knob(name)),
            (None, None) => Source::Flag.spell(knob(name)),
        }
    }

    fn refuse(&mut self, name: &'static str, text: String) {
        self.problems.push(Problem::new(text));
        self.bad.push(name);
    }
}

fn knob(name: &str) -> &'static Knob {
    find(name).unwrap_or(&KNOBS[0])
}

/// The secret that a file holds, and whether others may read the file.
fn read_secret(path: &Path) -> Result<(Secret, bool), String> {
    let cannot = |why: std::io::Error| format!("cannot be read: {why}");
    let file = File::open(path).map_err(cannot)?;
    let open_to_others = file.metadata().is_ok_and(|metadata| readable_by_others(&metadata));
    let mut text = String::new();
    // More than a secret and its line end may have, but not all of a device or of a wrong file.
    file.take(SECRET_LEN_MAX as u64 + 3).read_to_string(&mut text).map_err(cannot)?;
    let secret = Secret::parse(text.trim_end_matches(['\r', '\n']))
        .map_err(|why| format!("holds a secret that {why}"))?;
    Ok((secret, open_to_others))
}

#[cfg(unix)]
fn readable_by_others(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o007 != 0
}

#[cfg(not(unix))]
fn readable_by_others(_: &Metadata) -> bool {
    false
}
