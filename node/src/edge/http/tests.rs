use std::time::Duration;

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[path = "../../../tests/edge_support/tls.rs"]
mod tls;

/// A client of a server that is played by hand.
async fn client() -> (Http, TcpListener) {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("bound");
    let base = Url::parse(&format!("http://{address}/")).expect("a URL");
    (Http::new(&base, false, EdgeOptions::default()).expect("a client"), server)
}

/// Answers the request that comes over a connection, and returns its first line.
async fn answer(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("a request"));
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    connection.write_all(answer).await.expect("sent");
    String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()
}

fn request(http: &Http, path: &str) -> Request {
    Request::new(Method::GET, http.base.join(path).expect("a path"))
}

#[tokio::test]
async fn connection_made_ahead_carries_the_first_request_and_no_other_before() {
    let (http, server) = client().await;
    let preparing = tokio::spawn({
        let http = http.clone();
        async move { http.prepare().await }
    });
    let (mut ahead, _) = server.accept().await.expect("a connection");
    let sending = tokio::spawn({
        let http = http.clone();
        async move { http.send(request(&http, "first")).await.map(drop) }
    });
    assert_eq!(answer(&mut ahead).await, "GET /first HTTP/1.1");
    sending.await.expect("no panic").expect("answered");
    preparing.abort();
    // There is a connection now, so that none is made ahead.
    http.prepare().await;
    let again = tokio::spawn(async move { http.send(request(&http, "again")).await.map(drop) });
    assert_eq!(answer(&mut ahead).await, "GET /again HTTP/1.1");
    again.await.expect("no panic").expect("answered");
}

#[tokio::test]
async fn request_finds_out_what_a_connection_made_ahead_could_not() {
    let (http, server) = client().await;
    drop(server);
    http.prepare().await;
    let failure = http.send(request(&http, "first")).await.expect_err("nobody listens");
    assert!(matches!(failure, Failure::Unreachable { reach: Reach::Connect, .. }), "{failure:?}");
}

/// Waits for a head that takes 20 s, while an answer that is read gives a byte each second.
async fn beside(http: &Http, shared: bool) -> Result<Response, Failure> {
    let reading = Spread::reading(&http.spread, shared);
    let read = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            reading.moved(1, Duration::from_secs(1));
        }
    };
    let exchange = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok(Response::from(hyper::Response::new(Vec::new())))
    };
    tokio::select! {
        answer = http.in_turn(exchange) => answer,
        () = read => Err(Failure::Stalled { waited: Duration::ZERO, got: 0 }),
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_waited_for_as_long_as_its_connection_brings_others() {
    let options = EdgeOptions::default();
    let limit = options.connect_timeout + options.first_byte_timeout;
    let base = Url::parse("https://edge.example/").expect("a URL");
    let http = Http::new(&base, false, options).expect("a client");
    beside(&http, true).await.expect("it comes behind them");
    let failure = beside(&http, false).await.expect_err("another connection says nothing");
    assert!(matches!(failure, Failure::Stalled { waited, .. } if waited == limit), "{failure:?}");
}

/// Returns how many bytes of an answer the edge may send over HTTP/2 while nobody reads it, once that is `expected` or more.
async fn window(gently: bool, expected: u32) -> usize {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = server.local_addr().expect("bound");
    let base = Url::parse(&format!("https://{address}/")).expect("a URL");
    let options = EdgeOptions { ca_file: Some(tls::certificate_file()), ..EdgeOptions::default() };
    let http = Http::new(&base, false, options).expect("a client");
    let http = if gently { http.gently().expect("another") } else { http };
    let asking = tokio::spawn(async move { http.send(request(&http, "blob")).await });
    let (socket, _) = server.accept().await.expect("a connection");
    let stream = tls::acceptor(&["h2"]).accept(socket).await.expect("TLS");
    let mut server = h2::server::Builder::new();
    server.max_send_buffer_size(1 << 30);
    let mut connection = server.handshake::<_, Bytes>(stream).await.expect("HTTP/2");
    let (_, mut respond) = connection.accept().await.expect("a request").expect("in order");
    let mut body = respond.send_response(hyper::Response::new(()), false).expect("a head");
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    body.reserve_capacity(1 << 30);
    let expected = usize::try_from(expected).expect("a length");
    while body.capacity() < expected {
        std::future::poll_fn(|cx| body.poll_capacity(cx)).await.expect("open").expect("room");
    }
    drop(asking);
    body.capacity()
}

#[tokio::test]
async fn little_is_on_its_way_of_what_nobody_waits_for() {
    for (gently, windows) in [(false, Windows::FULL), (true, Windows::GENTLE)] {
        let expected = windows.stream.min(windows.connection);
        let window = timeout(Duration::from_secs(20), window(gently, expected)).await;
        assert_eq!(window.ok(), usize::try_from(expected).ok(), "gently: {gently}");
    }
}
