//! A server of HTTP/3 that breaks its rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blobmesh_node::edge::EdgeError;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, SendStream, ServerConfig};

use crate::edge_support::blobs::Blob;
use crate::edge_support::tls::server_config;
use crate::{edge_at, options};

/// What a stream of control begins with: its kind, and empty settings.
const CONTROL: [u8; 3] = [0, 4, 0];
/// The head of an answer whose fields are all in the table of the protocol: `:status 200`.
const OK: [u8; 5] = [1, 3, 0, 0, 0xd9];

/// Answers the first request over each connection with these bytes, and then bytes without end.
fn server(answer: &'static [u8], control: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let tls = QuicServerConfig::try_from(server_config(&["h3"])).expect("TLS");
    let config = ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = endpoint.local_addr().expect("an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let connection = incoming.await.expect("a connection");
            tokio::spawn(serve(connection, answer, control));
        }
    });
    (address, connections)
}

async fn serve(connection: Connection, answer: &'static [u8], control: &'static [u8]) {
    let Ok(mut controlling) = connection.open_uni().await else { return };
    let Ok(()) = controlling.write_all(control).await else { return };
    let Ok((mut answering, _)) = connection.accept_bi().await else { return };
    let Ok(()) = answering.write_all(answer).await else { return };
    tokio::join!(for_ever(controlling, control.len() > CONTROL.len()), for_ever(answering, true));
}

/// Keeps a stream until nobody wants it, and sends all the time, if it is to.
async fn for_ever(mut stream: SendStream, sends: bool) {
    while sends && stream.write_all(&[0x21; 4096]).await.is_ok() {}
    let _ended = stream.stopped().await;
}

#[tokio::test]
async fn frame_without_end_is_refused_before_it_is_taken_in() {
    // A kind, and the longest length there is.
    let head: &[u8] = &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let unknown: &[u8] = &[0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let settings: &[u8] = &[0, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    for (answer, control) in [(head, &CONTROL[..]), (unknown, &CONTROL), (&OK, settings)] {
        let (address, connections) = server(answer, control);
        let edge = edge_at(&format!("https://{address}"), options());
        // Over TCP, where it is asked next, nobody listens.
        let error = edge.read(&Blob::of_len(1).hash(), None).await.expect_err("refused");
        assert!(matches!(error, EdgeError::Unreachable { .. }), "{answer:?}: {error:?}");
        assert_eq!(connections.load(Ordering::Relaxed), 1, "it is not spoken to again");
    }
}
