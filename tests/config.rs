//! A node's configuration, told through every source: what wins, what is refused, and in which words.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tumen::config::{Address, Config, Http, KNOBS, Layer, Partial, Source, Warning};
use tumen_core::cluster::{coordinator, lease, membership};

fn flags(text: &str) -> Layer {
    let mut layer = Layer::new(Source::Flag);
    for words in text.split_whitespace().collect::<Vec<_>>().chunks(2) {
        layer.say(&words[0].trim_start_matches('-').replace('-', "_"), &[words[1].to_owned()]);
    }
    layer
}

fn env(variables: &[(&str, &str)]) -> Layer {
    Layer::env(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
}

fn file(text: &str) -> Layer {
    Layer::toml(Path::new("tumen.toml"), text)
}

fn named() -> Layer {
    flags("--name node-1")
}

#[track_caller]
fn resolved(layers: impl IntoIterator<Item = Layer>) -> Config {
    Config::resolve(layers).unwrap_or_else(|why| panic!("{why}"))
}

#[track_caller]
fn refused(layers: impl IntoIterator<Item = Layer>) -> Vec<String> {
    Config::resolve(layers)
        .expect_err("it should be refused")
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Warnings other than the one about the missing cookie, which almost every test here would see.
fn warnings(config: &Config) -> Vec<String> {
    let other = |warning: &&Warning| **warning != Warning::LoopbackOnly;
    config.warnings().iter().filter(other).map(ToString::to_string).collect()
}

#[test]
fn a_name_is_all_that_a_node_needs() {
    let config = resolved([named()]);
    assert_eq!(config.listen.0.to_string(), "127.0.0.1:7100");
    assert_eq!((config.partitions, config.replication, config.weight), (64, 3, 100));
    assert_eq!(config.lease, Duration::from_millis(1500));
    assert_eq!(config.warnings(), [Warning::LoopbackOnly]);
    assert!(refused([flags("")])[0].starts_with("the node has no name: give --name"));
}

#[test]
fn every_default_lies_within_its_bounds_and_every_knob_is_documented() {
    resolved([named()]);
    for knob in KNOBS {
        assert!(!knob.doc.is_empty(), "{}", knob.name);
        let Some(default) = knob.default.filter(|default| !default.is_empty()) else { continue };
        let mut layer = named();
        layer.say(knob.name, &[default.to_owned()]);
        Config::resolve([layer]).unwrap_or_else(|why| panic!("{}: {why}", knob.name));
    }
}

#[test]
fn a_stronger_source_overrules_a_weaker_one_knob_by_knob() {
    let builder =
        Partial { partitions: Some(1), replication: Some(1), weight: Some(1), ..Partial::default() };
    let file = file("replication = 2\nweight = 2\nzone = \"a\"");
    let env = env(&[("TUMEN_WEIGHT", "3"), ("TUMEN_ZONE", "b")]);
    let flags = flags("--name node-1 --zone c");
    // Whatever the order in which they are handed over.
    let config = resolved([flags, env, file, Layer::builder(builder)]);
    assert_eq!((config.partitions, config.replication, config.weight), (1, 2, 3));
    assert_eq!(config.zone.as_ref().map(ToString::to_string).as_deref(), Some("c"));
    assert!(config.is_given("weight") && !config.is_given("lease"));
}

#[test]
fn the_same_told_in_four_ways_is_the_same() {
    let mut builder = Layer::new(Source::Builder);
    for (name, text) in [
        ("name", "node-1"),
        ("http", "127.0.0.1:8081"),
        ("known_nodes", "localhost:8080,localhost:8082"),
        ("cluster", "my-cluster"),
        ("partitions", "16"),
        ("replication", "3"),
        ("lease", "2s"),
    ] {
        builder.say(name, &[text.to_owned()]);
    }
    let told = [
        builder,
        file(
            "name = \"node-1\"\nhttp = \"127.0.0.1:8081\"\nknown_nodes = [\"localhost:8080\", \"http://localhost:8082/\"]
            cluster = \"my-cluster\"\npartitions = 16\nreplication = 3\nlease = \"2s\"",
        ),
        env(&[
            ("NODE_ID", "node-1"),
            ("HTTP_ADDR", "127.0.0.1:8081"),
            ("KNOWN_NODES", "localhost:8080,localhost:8082"),
            ("TUMEN_CLUSTER", "my-cluster"),
            ("TUMEN_PARTITIONS", "16"),
            ("TUMEN_REPLICATION", "3"),
            ("TUMEN_LEASE", "2000ms"),
        ]),
        flags(
            "--name node-1 --http 127.0.0.1:8081 --known-nodes localhost:8080,localhost:8082 --cluster my-cluster
            --partitions 16 --replication 3 --lease 2.0s",
        ),
    ];
    let views = told.map(|layer| serde_json::to_string(&resolved([layer]).effective()).unwrap());
    assert!(views.iter().all(|view| *view == views[0]), "{views:#?}");
    assert!(
        views[0].starts_with(
            r#"{"name":"node-1","cluster":"my-cluster","zone":null,"weight":100,"data_dir":null,"#
        )
    );
    assert!(views[0].contains(r#""http":"127.0.0.1:8081""#) && views[0].contains(r#""lease":"2s""#));
    assert!(views[0].contains(r#""known_nodes":["localhost:8080","localhost:8082"]"#));
}

#[test]
fn three_variables_alone_make_a_node() {
    let config =
        resolved([env(&[("NODE_ID", "node-2"), ("HTTP_ADDR", ":8081"), ("KNOWN_NODES", "localhost:8080")])]);
    assert_eq!(config.http, Http::At(Address::new("127.0.0.1", 8081)));
    assert_eq!(config.listen.0, Address::new("127.0.0.1", 18081));
    assert_eq!(
        warnings(&config),
        [
            "HTTP_ADDR=:8081 is taken as 127.0.0.1:8081: without TUMEN_HTTP_TOKEN_FILE only this machine is served",
        ]
    );
    // The longer name is the stronger one, and what is set to nothing is not set.
    let config = resolved([env(&[("NODE_ID", "a"), ("TUMEN_NAME", "b"), ("HTTP_ADDR", "")])]);
    assert_eq!((config.name.as_str(), &config.http), ("b", &Http::Off));
}

#[test]
fn only_a_secret_opens_a_port_beyond_this_machine() {
    let open = |more: &str| flags(&format!("--name n --listen 0.0.0.0:7100 --http :8080 {more}"));
    let config = resolved([open("")]);
    assert_eq!(config.listen.0, Address::new("127.0.0.1", 7100));
    assert_eq!(config.http, Http::At(Address::new("127.0.0.1", 8080)));

    let config = resolved([open("--cookie 0123456789abcdef")]);
    assert_eq!(config.listen.0, Address::new("0.0.0.0", 7100));
    assert_eq!(config.http, Http::At(Address::new("127.0.0.1", 8080)));

    let config = resolved([open("--cookie 0123456789abcdef --http-token 0123456789abcdef")]);
    assert_eq!(config.http, Http::At(Address::new("0.0.0.0", 8080)));
    assert_eq!(config.warnings(), []);

    assert_eq!(
        refused([flags("--name n --listen 10.0.0.7:7100 --http shop.example:8080")]),
        [
            "--listen 10.0.0.7:7100 reaches beyond this machine, which takes a secret: give --cookie-file, \
             or use 127.0.0.1:7100",
            "--http shop.example:8080 reaches beyond this machine, which takes a secret: give --http-token-file, \
             or use 127.0.0.1:8080",
        ]
    );
}

#[test]
fn neighbours_are_told_in_the_words_of_their_sources() {
    let problem = |layer| refused([named(), layer]).remove(0);
    assert_eq!(
        problem(flags("--lease 0.4s")),
        "--lease 0.4s must exceed twice --election-timeout-max (300ms, the default)"
    );
    assert_eq!(
        problem(flags("--lease 0.4s --election-timeout-max 250ms")),
        "--lease 0.4s must exceed twice --election-timeout-max (250ms)"
    );
    assert_eq!(
        problem(env(&[("TUMEN_LEASE", "0.4s")])),
        "TUMEN_LEASE=0.4s must exceed twice TUMEN_ELECTION_TIMEOUT_MAX (300ms, the default)"
    );
    assert_eq!(
        problem(file("# slow\nelection_timeout_max = \"1s\"")),
        "lease (1.5s, the default) must exceed twice election_timeout_max (1s)"
    );
    assert_eq!(
        problem(file("\n\nlease = \"400ms\"")),
        "tumen.toml line 3: lease = 400ms must exceed twice election_timeout_max (300ms, the default)"
    );
    let typed = Partial { lease: Some(Duration::from_millis(400)), ..Partial::default() };
    assert_eq!(
        problem(Layer::builder(typed)),
        "lease(400ms) must exceed twice election_timeout_max (300ms, the default)"
    );
    let mixed = refused([named(), flags("--lease 0.4s"), env(&[("TUMEN_ELECTION_TIMEOUT_MAX", "250ms")])]);
    assert_eq!(mixed, ["--lease 0.4s must exceed twice TUMEN_ELECTION_TIMEOUT_MAX (250ms)"]);
}

#[test]
fn each_pair_of_neighbours_is_checked() {
    for (text, knobs) in [
        ("--heartbeat 80ms", ["--election-timeout-min", "--heartbeat 80ms"]),
        ("--election-timeout-min 300ms", ["--election-timeout-max", "--election-timeout-min"]),
        ("--lease 600ms", ["--lease 600ms", "--election-timeout-max"]),
        ("--stop-deadline 1.5s", ["--stop-deadline 1.5s", "--lease"]),
        ("--probe-rtt 126ms", ["--probe-interval", "--probe-rtt"]),
        ("--probe-interval 501ms", ["--suspicion", "--probe-interval"]),
        ("--suspicion 299ms", ["--suspicion 299ms", "--gossip-interval"]),
        ("--join-window 700ms", ["--join-window-busy", "--join-window"]),
        ("--join-window-max 599ms", ["--join-window-max 599ms", "--join-window-busy"]),
        ("--partitioner range:0..62", ["--partitioner range:0..62", "--partitions"]),
        ("--http 127.0.0.1:7000 --listen 127.0.0.1:7000", ["--listen 127.0.0.1:7000", "--http"]),
    ] {
        let problems = refused([named(), flags(text)]);
        let [problem] = &problems[..] else { panic!("{text}: {problems:?}") };
        let flag = knobs[1].split(' ').next().unwrap_or_default();
        assert!(problem.starts_with(knobs[0]) && problem.contains(flag), "{text}: {problem}");
    }
    resolved([flags("--name n --partitioner range:0..63 --lease 601ms --stop-deadline 602ms")]);
    resolved([flags("--name n --http 127.0.0.1:0 --listen 127.0.0.1:0")]);
}

#[test]
fn all_problems_are_listed_at_once_and_each_only_once() {
    let flags = flags("--partitions 0 --replication 99 --lease soon --heartbeat 1 --mode fast");
    let file = file("partitons = 3\nweight = -1\nzone = [1, 2]\njoin = { a = 1 }");
    let problems = refused([flags, file, env(&[("TUMEN_MIN_NODES", "0"), ("HTTP_ADDR", "8080")])]);
    assert_eq!(
        problems,
        [
            "tumen.toml line 1: there is no knob partitons; did you mean partitions?",
            "tumen.toml line 2: weight = -1 is no whole number",
            "tumen.toml line 3: zone = 1,2 takes one value, not a list",
            "tumen.toml line 4: join cannot be a table here",
            "HTTP_ADDR=8080 is no address: write HOST:PORT, such as 127.0.0.1:7100 or [::1]:7100",
            "--lease soon is no length of time: write a number and its unit, such as 1500ms, 1.5s, 30s or 2m",
            "--heartbeat 1 has no unit: write 1ms or 1s",
            "--mode fast is unknown here: choose async|sync|strong",
            "TUMEN_MIN_NODES=0 must be from 1 to 1000",
            "--partitions 0 must be from 1 to 65536",
            "--replication 99 must be from 1 to 16",
            "the node has no name: give --name (or NODE_ID, or name in the file), different for each node",
        ]
    );
}

#[test]
fn unknown_keys_name_the_nearest_knob() {
    for (key, hint) in [
        ("election-timeout-max", "; did you mean election_timeout_max?"),
        ("replicas", "; did you mean replication?"),
        ("leese", "; did you mean lease?"),
        ("something_else_entirely", "; tumen node --help lists them"),
    ] {
        let problems = refused([named(), file(&format!("{key} = 1"))]);
        assert_eq!(problems, [format!("tumen.toml line 1: there is no knob {key}{hint}")]);
    }
    let config =
        resolved([named(), env(&[("TUMEN_LAESE", "1s"), ("TUMEN_HTTP", "http://a:1"), ("OTHER", "x")])]);
    assert_eq!(
        warnings(&config),
        ["the environment variable TUMEN_LAESE is unknown; did you mean TUMEN_LEASE?"]
    );
}

#[test]
fn a_broken_or_missing_file_is_a_problem_with_its_place() {
    let problems = refused([named(), file("lease = \"1s\"\nlease = \"2s\"")]);
    assert!(problems[0].starts_with("tumen.toml line 2: duplicate key"), "{problems:?}");
    let problems = refused([named(), file("name = ")]);
    assert!(problems[0].starts_with("tumen.toml line 1: "), "{problems:?}");
    let problems = refused([named(), Layer::file(Path::new("/nowhere/tumen.toml"))]);
    assert!(problems[0].starts_with("/nowhere/tumen.toml: cannot be read: "), "{problems:?}");
}

#[test]
fn strategies_are_in_the_box_or_brought_along() {
    let problems = refused([flags("--name n --strategy mine")]);
    assert_eq!(
        problems,
        [
            "--strategy mine is no strategy here: choose one of balanced, rotation, consistent-hash, rendezvous"
        ]
    );
    let mut builder = Layer::new(Source::Builder);
    builder.bring_strategy("mine");
    assert_eq!(resolved([builder, flags("--name n --strategy mine")]).strategy, "mine");
}

#[test]
fn seeds_of_both_kinds_are_told_apart() {
    let config = resolved([
        flags("--name n --join 10.0.0.2:7100,http://10.0.0.3:8080"),
        env(&[("KNOWN_NODES", "10.0.0.4:8080")]),
    ]);
    let effective = serde_json::to_value(config.effective()).unwrap();
    assert_eq!(effective["join"], serde_json::json!(["10.0.0.2:7100"]));
    assert_eq!(effective["known_nodes"], serde_json::json!(["10.0.0.4:8080", "10.0.0.3:8080"]));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let write = |name: &str, text: &[u8]| std::fs::write(path(name), text).unwrap();
    write("cookie", b"a very secret cookie\r\n");
    write("empty", b"\n");
    write("binary", &[0xff, 0xfe]);
    write("huge", &vec![b'x'; 1 << 20]);

    let config = resolved([flags(&format!("--name n --cookie-file {}", path("cookie")))]);
    assert_eq!(config.cookie.as_ref().map(|cookie| cookie.expose()), Some("a very secret cookie"));
    let told = format!("{config:?} {}", serde_json::to_string(&config.effective()).unwrap());
    assert!(!told.contains("very secret") && told.contains(r#""cookie":"redacted""#), "{told}");

    // The stronger source's word counts, whether it is the cookie or its file; one source says one of them.
    let config = resolved([
        env(&[("TUMEN_COOKIE", "from the environment"), ("NODE_ID", "n")]),
        flags(&format!("--cookie-file {}", path("cookie"))),
    ]);
    assert_eq!(config.cookie.as_ref().map(|cookie| cookie.expose()), Some("a very secret cookie"));
    let filed = file(&format!("cookie_file = {:?}", path("cookie")));
    let config = resolved([filed, env(&[("TUMEN_COOKIE", "from the environment"), ("NODE_ID", "n")])]);
    assert_eq!(config.cookie.as_ref().map(|cookie| cookie.expose()), Some("from the environment"));
    let both =
        file(&format!("name = \"n\"\ncookie = \"0123456789abcdef\"\ncookie_file = {:?}", path("cookie")));
    let problems = refused([both]);
    assert!(
        problems[0].ends_with("are given both: choose one") && !problems[0].contains("0123"),
        "{problems:?}"
    );

    for (name, why) in [
        ("empty", "holds a secret that is empty"),
        ("binary", "cannot be read: "),
        ("huge", "holds a secret that has 4099 bytes; 4096 are the most"),
        ("missing", "cannot be read: "),
    ] {
        // A cookie that cannot be had is one problem, not also a port that lacks a cookie.
        let problems =
            refused([flags(&format!("--name n --listen 10.0.0.1:1 --cookie-file {}", path(name)))]);
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.starts_with(&format!("--cookie-file {} {why}", path(name))), "{problem}");
    }

    let problems = refused([env(&[("NODE_ID", "n"), ("TUMEN_COOKIE", "secret\u{7}")])]);
    assert_eq!(problems, ["TUMEN_COOKIE holds a control character"]);
}

#[test]
fn what_holds_and_is_yet_odd_is_warned_about() {
    let config =
        resolved([flags("--name n --cookie short --bootstrap-expect 2 --partitions 4 --rejoin-grace 5s")]);
    assert_eq!(
        warnings(&config),
        [
            "the cookie has only 5 bytes and could be guessed: take at least 16",
            "--rejoin-grace 5s has no effect without --data-dir",
            "replication 3 needs as many nodes, and there are 2: until more join, each partition has only as many copies",
            "4 partitions share out unevenly over 2 nodes; choose at least 8 for a new cluster",
        ]
    );
    assert_eq!(config.warnings_for(1), [Warning::CopiesExceedNodes { replication: 3, nodes: 1 }]);
    resolved([flags("--name n --partitions 65536 --replication 16 --weight 1000000")]);
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cookie");
    std::fs::write(&path, "0123456789abcdef").unwrap();
    for (mode, wanted) in [(0o600, vec![]), (0o644, vec![Warning::ReadableSecret { path: path.clone() }])] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = resolved([flags(&format!("--name n --cookie-file {}", path.display()))]);
        assert_eq!(config.warnings(), wanted);
    }
}

#[test]
fn what_others_are_told_is_what_was_said_or_where_it_listens() {
    let bound = |text: &str| text.parse().unwrap();
    let config = resolved([flags("--name n --advertise shop.example:7200")]);
    assert_eq!(config.advertised(bound("127.0.0.1:7100")).to_string(), "shop.example:7200");
    assert_eq!(config.advertised_http(bound("127.0.0.1:8080")).to_string(), "127.0.0.1:8080");
    // Towards a seed on this machine, this machine is reached as itself.
    let config = resolved([flags("--name n --join 127.0.0.1:7101")]);
    assert_eq!(config.advertised(bound("0.0.0.0:7100")).to_string(), "127.0.0.1:7100");
}

proptest! {
    /// What is accepted here must not be refused later, by the law that it is handed to.
    #[test]
    fn whatever_is_accepted_is_accepted_by_the_laws(times in prop::collection::vec(0_u64..4_000_000, 8), scale in 0_u32..22) {
        let knobs =
            ["lease", "election_timeout_max", "probe_interval", "probe_rtt", "suspicion", "gossip_interval", "join_window", "stop_deadline"];
        let mut layer = named();
        for (knob, time) in knobs.into_iter().zip(times) {
            layer.say(knob, &[format!("{}ms", time >> scale)]);
        }
        if let Ok(config) = Config::resolve([layer]) {
            prop_assert_eq!(config.lease().validate(), Ok(()));
            prop_assert_eq!(config.membership().check(), Ok(()));
            prop_assert_eq!(config.coordinator().window.quiet, config.join_window);
        }
    }

    #[test]
    fn no_file_and_no_variable_makes_it_panic(text in "\\PC*", key in 0..KNOBS.len()) {
        let knob = &KNOBS[key];
        let _ = Config::resolve([file(&text), file(&format!("{} = {text}", knob.name)), env(&[(&knob.variable(), &text)])]);
    }
}

#[test]
fn the_defaults_of_the_laws_are_the_defaults_here() {
    let config = resolved([named()]);
    assert_eq!(config.lease(), lease::Config::default());
    assert_eq!(format!("{:?}", config.coordinator()), format!("{:?}", coordinator::Config::default()));
    assert_eq!(format!("{:?}", config.membership()), format!("{:?}", membership::Config::default()));
    assert_eq!(config.group_spec().partitioner.to_string(), "hash");
}
