//! Good and bad clients, on real sockets.

use std::time::Instant;

use axum::routing::get;
use tokio::io::AsyncReadExt;

use super::*;

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn server(limits: Limits) -> Server {
    let routes = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/large", get(|| async { vec![b'x'; 64 << 20] }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "late"
            }),
        )
        .route("/never", get(std::future::pending::<String>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(listener, routes, limits, CancellationToken::new()).unwrap()
}

async fn send(server: &Server, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream
}

/// All that comes until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    read.expect("the server closes the connection").unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn requests_are_answered_one_after_the_other() {
    let server = server(Limits::default()).await;
    let both = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let told = rest(send(&server, both).await).await;
    assert_eq!(told.matches("HTTP/1.1 200 OK").count(), 2, "{told}");
    server.stop(PATIENCE).await;
}

#[tokio::test]
async fn garbage_is_told_so_and_the_connection_ends() {
    let server = server(Limits::default()).await;
    for (garbage, code) in [
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 hello\r\n\r\n".to_vec(), "bad_request"),
        (b"GET /\xff\xfe HTTP/9.9\r\n\r\n".to_vec(), "bad_request"),
        (b"tumen\0\0\0\0\0\r\n\r\n".to_vec(), "bad_request"),
        ([b"GET /".to_vec(), vec![b'k'; 70_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat(), "too_long"),
        ([b"GET /".to_vec(), vec![b'k'; 1 << 20], b" HTTP/1.1\r\n\r\n".to_vec()].concat(), "too_long"),
        ([b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'v'; 1 << 20], b"\r\n\r\n".to_vec()].concat(), "too_long"),
    ] {
        let told = rest(send(&server, &garbage).await).await;
        assert!(told.starts_with("HTTP/1.1 4") && told.contains(code), "{code}: {told}");
    }
    let told = rest(send(&server, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await).await;
    assert!(told.starts_with("HTTP/1.1 200"), "others are not disturbed: {told}");
}

#[tokio::test]
async fn idle_connections_end() {
    let limits = Limits { head_within: Duration::from_millis(50), ..Limits::default() };
    let server = server(limits).await;
    for begun in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let since = Instant::now();
        rest(send(&server, begun).await).await;
        assert!(since.elapsed() >= limits.head_within / 2, "{begun:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = server(Limits { stalled_after: Duration::from_millis(100), ..Limits::default() }).await;
    let silent = send(&server, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.tasks.close();
    server.stopping.cancel();
    let ended = tokio::time::timeout(PATIENCE, server.tasks.wait()).await;
    assert!(ended.is_ok(), "its task ends though nobody reads");
    drop(silent);
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = server(Limits { connections_max: 2, ..Limits::default() }).await;
    let _held = (send(&server, b"GET").await, send(&server, b"GET").await);
    // The two may not have been taken yet when the third one comes: it is refused as soon as they are.
    let refused = loop {
        let told = rest(send(&server, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await).await;
        if !told.starts_with("HTTP/1.1 200") {
            break told;
        }
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("overloaded"), "{refused}");
}

#[tokio::test]
async fn a_stop_waits_for_what_is_under_way_and_not_for_ever() {
    let server = server(Limits::default()).await;
    let slow = send(&server, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let idle = send(&server, b"").await;
    // Both are taken before the stop: the accepting task handles connections in their order.
    let probe = rest(send(&server, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await).await;
    assert!(probe.starts_with("HTTP/1.1 200"));
    server.stop(PATIENCE).await;
    assert!(rest(slow).await.ends_with("late"));
    assert_eq!(rest(idle).await, "");
    assert!(TcpStream::connect(server.address()).await.is_err());
}

#[tokio::test]
async fn a_stop_cuts_off_what_does_not_end() {
    let server = server(Limits::default()).await;
    let never = send(&server, b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let probe = rest(send(&server, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await).await;
    assert!(probe.starts_with("HTTP/1.1 200"));
    let since = Instant::now();
    server.stop(Duration::from_millis(50)).await;
    assert!(since.elapsed() < PATIENCE);
    assert_eq!(rest(never).await, "");
}
