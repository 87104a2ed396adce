//! The command line as people use it: the real program, asking an HTTP server that answers in the real shapes.

#![expect(clippy::unwrap_used, reason = "these are tests, their helpers too")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Sse, Sse as Stream};
use axum::routing::{get, post};
use axum::{Json, Router};
use tumen::http::shapes::*;

type Answer<T> = Result<Json<T>, (StatusCode, Json<ErrorBody>)>;

/// A cluster of three as the server tells of it. The counter counts the streams of events opened so far.
fn server(routes: Router<Arc<AtomicU32>>) -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, routes.with_state(Arc::default())).await.unwrap();
        });
    });
    address.recv().unwrap()
}

fn healthy() -> Router<Arc<AtomicU32>> {
    Router::new()
        .route("/cluster", get(async || Json(cluster())))
        .route("/ready", get(async || Json(Ready { ready: true })))
        .route("/invariants", get(async || Json(Invariants::default())))
        .route(
            "/config",
            get(async || {
                Json(serde_json::json!({
                    "name": "node-1", "partitions": 16, "replication": 3, "min_nodes": 1, "create": "auto",
                }))
            }),
        )
        .route("/partitions", get(async || Json(Partitions::new(vec![partition(0), partition(1)]))))
        .route("/partitions/stats", get(async || Json(stats())))
        .route("/partitions/key", get(by_key))
        .route("/partitions/rebalance", post(rebalance))
        .route("/nodes/{name}/partitions", get(of_node))
        .route("/nodes/{name}/drain", post(drain))
        .route("/plan", get(plan))
        .route("/events", get(events))
}

fn cluster() -> Cluster {
    let node = |name: &str, zone: Option<&str>| Node {
        name: name.into(),
        state: "up".into(),
        votes: name != "node-3",
        boot: "18f2a".into(),
        address: "127.0.0.1:7101".into(),
        http: None,
        zone: zone.map(str::to_owned),
        weight: 100,
        services: vec!["kv".into()],
    };
    Cluster {
        name: "shop".into(),
        id: Some("00000000000000ff".into()),
        version: 12,
        term: 3,
        leader: Some("node-2".into()),
        mode: "sync".into(),
        nodes: vec![node("node-1", Some("hall-a")), node("node-2", None), node("node-3", None)],
    }
}

fn partition(index: u32) -> Partition {
    Partition {
        id: format!("partition-{index}"),
        primary_node: (index == 0).then(|| "node-1".into()),
        replica_nodes: vec!["node-2".into(), "node-3".into()],
        epoch: 4,
        lost: false,
    }
}

fn stats() -> PartitionStats {
    let per = |counts: [u32; 3]| (1..).zip(counts).map(|(at, count)| (format!("node-{at}"), count)).collect();
    PartitionStats {
        total_partitions: 16,
        partitions_per_node: per([5, 6, 5]),
        replicas_per_node: per([11, 10, 11]),
    }
}

async fn by_key(Query(KeyQuery { key }): Query<KeyQuery>) -> Answer<Partition> {
    // The replica's name tells the test what arrived.
    Ok(Json(Partition { replica_nodes: vec![key.unwrap_or_default()], ..partition(0) }))
}

async fn of_node(Path(name): Path<String>) -> Answer<Partitions> {
    if name == "node-1" {
        return Ok(Json(Partitions::new(vec![partition(0)])));
    }
    let body = ErrorBody::unchanged("not_found", format!("no node is named {name:?}; see GET /cluster"));
    Err((StatusCode::NOT_FOUND, Json(body)))
}

async fn rebalance() -> Json<Rebalanced> {
    Json(Rebalanced { version: 13, moved: 4, lower_bound: 4, changed: true })
}

async fn drain(Path(name): Path<String>, Json(Drain { leave }): Json<Drain>) -> Answer<Draining> {
    if leave {
        return Ok(Json(Draining { version: 14 }));
    }
    let error =
        Error { code: "timeout".into(), message: format!("{name} is slow; ask again"), changed: None };
    Err((StatusCode::GATEWAY_TIMEOUT, Json(ErrorBody { error })))
}

async fn plan(Query(PlanQuery { add, remove }): Query<PlanQuery>) -> Json<Plan> {
    let partition = "partition-0".to_owned();
    let moves =
        vec![Move { partition, from: vec![remove.unwrap_or_default()], to: vec![format!("{add:?}")] }];
    Json(Plan { moves, moved: 1, lower_bound: 1 })
}

async fn events(
    State(opened): State<Arc<AtomicU32>>,
) -> Stream<impl tokio_stream::Stream<Item = Result<Sse, Infallible>>> {
    let opened = opened.fetch_add(1, Ordering::SeqCst);
    let event = |event: &Event| Ok(Sse::default().event(event.name()).json_data(event).unwrap());
    // Each connection tells of one plan and breaks off, so that whoever wants more must come back.
    Stream::new(tokio_stream::iter([
        Ok(Sse::default().comment("hello")),
        event(&Event::Snapshot { version: opened.into(), term: 3, leader: "node-2".into() }),
        event(&Event::PartitionMoved {
            partition: "partition-7".into(),
            from: Some("node-1".into()),
            to: None,
            epoch: 5,
            version: opened.into(),
            copies_from: vec![],
            reason: String::new(),
        }),
        Ok(Sse::default().event("newer").data(r#"{"event":"newer"}"#)),
    ]))
}

fn tumen(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tumen"));
    command.args(args.split_whitespace()).stdin(Stdio::null()).current_dir(std::env::temp_dir());
    for (name, _) in std::env::vars() {
        if name.starts_with("TUMEN_")
            || ["NODE_ID", "HTTP_ADDR", "KNOWN_NODES", "RUST_LOG"].contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it against the server: exit code, stdout, stderr.
fn asked(server: SocketAddr, args: &str) -> (i32, String, String) {
    outcome(tumen(args).env("TUMEN_HTTP", format!("http://{server}")).output().unwrap())
}

fn outcome(Output { status, stdout, stderr }: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The words of each line, so that the width of columns does not matter.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn every_command_that_the_readme_names_is_taken() {
    let readme = include_str!("../README.md");
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("tumen ")).collect();
    assert!(commands.len() >= 3, "{commands:?}");
    for command in commands {
        let mut tumen = Command::new(env!("CARGO_BIN_EXE_tumen"));
        let output = tumen.args(command.split_whitespace()).arg("--help").output().unwrap();
        assert!(output.status.success(), "tumen {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn answers_are_tables_for_people() {
    let server = server(healthy());
    let table = |args: &str| {
        let (code, out, err) = asked(server, args);
        assert_eq!((code, err.as_str()), (0, ""), "{args}");
        out
    };
    assert_eq!(
        table("status"),
        "cluster     shop (00000000000000ff), mode sync\nplan        version 12, term 3\nleader      node-2\n\
         nodes       3 up\nvoters      2 (node-1, node-2)\npartitions  16 of 16 served\nthis node   ready\n"
    );
    let nodes = table("nodes");
    let nodes = words(&nodes);
    assert_eq!(nodes[0][..4], ["NODE", "STATE", "VOTES", "PRIMARIES"]);
    assert_eq!(
        nodes[1],
        ["node-1", "up", "yes", "5", "11", "127.0.0.1:7101", "-", "hall-a", "100", "kv", "18f2a"]
    );
    assert_eq!(nodes[2][..4], ["node-2", "up,", "leader", "yes"]);
    assert_eq!(
        words(&table("partitions")),
        [
            vec!["PARTITION", "PRIMARY", "REPLICAS", "EPOCH"],
            vec!["partition-0", "node-1", "node-2,", "node-3", "4"],
            vec!["partition-1", "-", "node-2,", "node-3", "4"],
        ]
    );
    assert_eq!(words(&table("partitions --node node-1")).len(), 2);
    let stats = table("stats");
    assert_eq!(words(&stats)[2], ["node-2", "6", "10", "16"]);
    assert!(stats.ends_with("16 partitions\n"));
    assert_eq!(words(&table("plan --add 2 --remove node-3"))[1], ["partition-0", "node-3", "Some(2)"]);
    assert!(table("plan").ends_with("1 copies would move; no plan as balanced moves fewer than 1\n"));
    assert_eq!(table("rebalance"), "version 13: 4 copies move; no plan as balanced moves fewer than 4\n");
    assert_eq!(table("drain node-3 --leave"), "version 14: node-3 gives its copies away, and leaves then\n");
    assert_eq!(table("doctor"), "nothing wrong was found\n");
}

#[test]
fn answers_are_json_for_programs_exactly_as_the_node_wrote_them() {
    let server = server(healthy());
    let json = |args: &str| asked(server, &format!("{args} --json")).1;
    let line = |value: serde_json::Result<String>| value.unwrap() + "\n";
    assert_eq!(
        json("partitions"),
        line(serde_json::to_string(&Partitions::new(vec![partition(0), partition(1)])))
    );
    assert_eq!(json("stats"), line(serde_json::to_string(&stats())));
    assert_eq!(json("rebalance"), "{\"version\":13,\"moved\":4,\"lower_bound\":4,\"changed\":true}\n");
    assert_eq!(json("drain node-3 --leave"), "{\"version\":14}\n");
    assert_eq!(json("doctor"), "{\"findings\":[]}\n");
    let status: serde_json::Value = serde_json::from_str(&json("status")).unwrap();
    assert_eq!((&status["version"], &status["ready"]), (&12.into(), &true.into()));
    let nodes: serde_json::Value = serde_json::from_str(&json("nodes")).unwrap();
    assert_eq!((&nodes["count"], &nodes["nodes"][1]["name"]), (&3.into(), &"node-2".into()));
}

#[test]
fn a_key_arrives_as_it_was_written() {
    let server = server(healthy());
    for key in ["user:1001", "a b/c?d=e&f#g%25+h", "ключ", ""] {
        let output =
            tumen("route --json").arg("--http").arg(server.to_string()).arg("--").arg(key).output().unwrap();
        let (code, out, err) = outcome(output);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(serde_json::from_str::<Partition>(&out).unwrap().replica_nodes, [key]);
    }
}

#[test]
fn what_goes_wrong_is_one_line_on_stderr() {
    let up = server(healthy());
    let refused = |args: &str| {
        let (code, out, err) = asked(up, args);
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
        err
    };
    assert_eq!(
        refused("partitions --node node-9"),
        "tumen: not_found: no node is named \"node-9\"; see GET /cluster (nothing was changed)\n"
    );
    assert_eq!(
        refused("drain node-1"),
        "tumen: timeout: node-1 is slow; ask again (whether anything was changed is not known)\n"
    );

    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, err) = asked(free, "status");
    let wanted = format!(
        "tumen: http://{free} cannot be reached: nothing listens there; --http or TUMEN_HTTP names another node\n"
    );
    assert_eq!((code, err), (1, wanted));

    // A port that takes connections and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let (code, _, err) = asked(address, "rebalance --timeout 200ms");
    assert_eq!(code, 1);
    let wanted = format!(
        "tumen: http://{address} gave no answer: not within 200ms; whether anything was changed is not known, \
         so look before you ask again\n"
    );
    assert_eq!(err, wanted);

    // Something else that speaks HTTP.
    let other = server(Router::new().route("/cluster", get(async || "<html>")));
    let (code, _, err) = asked(other, "nodes");
    assert_eq!((code, err.lines().count()), (1, 1));
    assert!(err.contains("does not answer as a node of this version does: 200 OK expected value"), "{err}");
    assert!(asked(other, "stats").2.contains("404 Not Found without a reason"));
}

#[test]
fn a_node_that_is_not_ready_says_why() {
    let body = || ErrorBody::unchanged("not_ready", "no quorum");
    let routes = Router::new()
        .route("/cluster", get(async || Json(cluster())))
        .route("/partitions/stats", get(async || Json(stats())))
        .route("/ready", get(async move || (StatusCode::SERVICE_UNAVAILABLE, Json(body()))));
    let server = server(routes);
    let (code, out, _) = asked(server, "status");
    assert!(code == 0 && out.ends_with("this node   not ready: no quorum\n"), "{out}");
    let (_, out, _) = asked(server, "status --json");
    assert!(out.ends_with("\"ready\":false,\"not_ready_because\":\"no quorum\"}\n"), "{out}");
}

#[test]
fn the_token_is_shown_to_the_node_and_to_nobody_else() {
    let routes = Router::new().route(
        "/partitions/stats",
        get(async |headers: HeaderMap| match headers.get("authorization").map(|value| value.as_bytes()) {
            Some(b"Bearer open sesame") => Ok(Json(stats())),
            _ => Err((StatusCode::UNAUTHORIZED, Json(ErrorBody::unchanged("unauthorized", "show a token")))),
        }),
    );
    let server = server(routes);
    let http = format!("http://{server}");
    assert!(asked(server, "stats").2.starts_with("tumen: unauthorized: show a token"));
    let by_env =
        tumen("stats").env("TUMEN_HTTP", &http).env("TUMEN_HTTP_TOKEN", "open sesame").output().unwrap();
    assert_eq!(outcome(by_env).0, 0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "open sesame\n").unwrap();
    let by_file = tumen("stats --http-token-file").arg(&file).env("TUMEN_HTTP", &http).output().unwrap();
    assert_eq!(outcome(by_file).0, 0);
    let missing = tumen("stats --http-token-file /nowhere/token").env("TUMEN_HTTP", &http).output().unwrap();
    assert!(outcome(missing).2.starts_with("tumen: --http-token-file /nowhere/token: "));
}

#[test]
fn watching_goes_on_when_the_connection_breaks() {
    let server = server(healthy());
    let (code, out, err) = asked(server, "watch --count 4");
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        lines,
        [
            "snapshot          version 0 by node-2 in term 3",
            "partition moved   partition-7 from node-1 to nobody (epoch 5, version 0)",
            "{\"event\":\"newer\"}",
            "snapshot          version 1 by node-2 in term 3",
        ]
    );
    assert_eq!(err, format!("tumen: http://{server} ended the stream; trying again\n"));
    let (_, out, _) = asked(server, "watch --count 1 --json");
    assert_eq!(out, "{\"event\":\"snapshot\",\"version\":2,\"term\":3,\"leader\":\"node-2\"}\n");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        "",
        "nodez",
        "nodes --jsn",
        "route",
        "nodes --http https://x:1",
        "nodes --timeout 5",
        "plan --add many",
        "demo --nodes 0",
        "demo --partitions 0",
        "bench speed",
        "node --lease",
        "node --cookie secret",
    ] {
        let (code, out, err) = outcome(tumen(args).output().unwrap());
        assert_eq!((code, out.as_str()), (2, ""), "{args}: {err}");
        assert!(!err.is_empty());
    }
    let (code, out, _) = outcome(tumen("--help").output().unwrap());
    assert!(code == 0 && ["node", "demo", "bench", "plan", "watch"].iter().all(|word| out.contains(word)));
}

#[test]
fn a_node_that_is_told_nonsense_lists_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tumen.toml");
    std::fs::write(&file, "lease = \"0.4s\"\nreplicaton = 3\n").unwrap();
    let output = tumen("node --name a/b --partitions 0 --weight -1 --config")
        .arg(&file)
        .env("HTTP_ADDR", "x")
        .output();
    let (code, out, err) = outcome(output.unwrap());
    assert_eq!((code, out.as_str()), (2, ""));
    let file = file.display();
    assert_eq!(
        err.lines().collect::<Vec<_>>(),
        [
            "tumen: the configuration is refused, for 6 reasons:",
            &format!("  {file} line 2: there is no knob replicaton; did you mean replication?"),
            "  HTTP_ADDR=x is no address: write HOST:PORT, such as 127.0.0.1:7100 or [::1]:7100",
            "  --name a/b cannot be taken: a node name consists of letters, digits, '.', '_', '-', '@' and ':', \
             not '/'",
            "  --weight -1 is no whole number",
            "  --partitions 0 must be from 1 to 65536",
            &format!(
                "  {file} line 1: lease = 0.4s must exceed twice election_timeout_max (300ms, the default)"
            ),
        ]
    );
}

#[test]
fn the_help_of_a_node_names_every_knob_with_its_variable_and_default() {
    let (code, help, _) = outcome(tumen("node --help").output().unwrap());
    assert_eq!(code, 0);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for knob in tumen::config::KNOBS.iter().filter(|knob| !knob.secret) {
        assert!(help.contains(&format!("{} <{}>", knob.flag(), knob.shape)), "{}", knob.name);
        assert!(help.contains(&format!("[env: {}", knob.variable())), "{}", knob.name);
    }
    assert!(help.contains("[default: 1.5s] [20ms to 60s]"));
    assert!(!help.contains("--cookie <"), "a secret has no flag: everybody on a machine sees the flags");
}

#[test]
fn the_reader_may_leave_early() {
    use std::io::{BufRead, BufReader};
    let many = async || Json(Partitions::new((0..20_000).map(partition).collect()));
    let routes = Router::new().route("/partitions", get(many));
    let server = server(routes);
    let mut command = tumen("partitions");
    let mut child = command
        .env("TUMEN_HTTP", server.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("PARTITION"));
    let (code, _, err) = outcome(child.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (0, ""));
}
