//! The request of frpc's websocket: stamped by whichever filter sees it, and nothing else is.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use totoro_ebpf::abi::TCP;
use totoro_ebpf::logic::stamp;
use totoro_node::kernel::{Kernel, XdpMode};

use crate::sockets::{PORT, connect, five, lend, listen, v4, v6};
use crate::support::{BIND_PORT, Node, Peer, eventually};
use crate::wire::{NODE4, NODE6, compute_checksums, link_up};

/// As frpc sends it to a host of some name (golang.org/x/net/websocket, `hybiClientHandshake`).
fn request(host: &str) -> String {
    format!(
        "GET /~!frp HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nOrigin: http://{host}\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Sends pieces, one segment each, and reads as much; the client's address with what arrived.
fn sent(
    listener: &TcpListener,
    client: &mut TcpStream,
    pieces: &[&str],
) -> (TcpStream, SocketAddr, String) {
    let (mut server, from) = listener.accept().expect("accept");
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    client.set_nodelay(true).expect("no delay");
    let mut text = String::new();
    for piece in pieces {
        client.write_all(piece.as_bytes()).expect("send");
        let mut read = vec![0; piece.len()];
        server.read_exact(&mut read).expect("all of it");
        text.push_str(std::str::from_utf8(&read).expect("text"));
    }
    (server, from, text)
}

/// The stamp in what arrived; all else is as it was sent.
fn stamp_in(text: &str, request: &str) -> Option<u64> {
    let at = request.find("Origin: ").expect("an origin") + "Origin: ".len();
    let end = at + stamp::LEN;
    assert_eq!(
        (&text[..at], &text[end..]),
        (&request[..at], &request[end..])
    );
    stamp::parse(&text[at..])
}

fn reach(peer: &Peer, to: IpAddr) -> TcpStream {
    peer.run(move || TcpStream::connect((to, BIND_PORT)).expect("connect"))
}

/// Requests over a wire whose checksums count, by both families, at even and odd offsets.
fn stamped_by(name: &str, mode: XdpMode) {
    let Some(node) = Node::new(name) else { return };
    let before = || {
        let peer = link_up();
        compute_checksums(&peer);
        peer
    };
    node.on(&["us0"], mode).run_after(before, |kernel, peer| {
        let listener = listen(BIND_PORT);
        let mut seen = Vec::new();
        for to in [NODE4, NODE6] {
            for host in ["10.77.9.1:17000", "[fd77:9::1]:7000", "node.example:17000"] {
                let request = request(host);
                let mut client = reach(&peer, to);
                let (server, from, text) = sent(&listener, &mut client, &[&request]);
                let stamp = stamp_in(&text, &request).unwrap_or_else(|| panic!("{host}: {text}"));
                let told = kernel.stamped_control(stamp).expect("read").expect("known");
                assert_eq!(Some(told), kernel.control_socket(from).expect("read"));
                assert_eq!(told.client, from);
                assert!(!seen.contains(&stamp), "each has its own");
                seen.push(stamp);
                drop((client, server));
                eventually("forgotten with its connection", || {
                    kernel.stamped_control(stamp).expect("read").is_none()
                });
            }
        }
    });
}

#[test]
fn traffic_control_stamps_a_websocket() {
    stamped_by("greet-tc", XdpMode::Off);
}

#[test]
fn generic_xdp_stamps_a_websocket() {
    stamped_by("greet-skb", XdpMode::Generic);
}

#[test]
fn native_xdp_stamps_a_websocket() {
    stamped_by("greet-drv", XdpMode::Native);
}

#[test]
fn a_proxy_on_the_nodes_loopback_is_stamped_where_that_is_filtered() {
    let Some(node) = Node::new("greet-lo") else {
        return;
    };
    node.on(&["lo"], XdpMode::Auto).run(|kernel| {
        let listener = listen(BIND_PORT);
        for to in [v4(BIND_PORT), v6(BIND_PORT)] {
            let request = request("node.example:443");
            let mut client = connect(to).expect("connect");
            let (_server, from, text) = sent(&listener, &mut client, &[&request]);
            let stamp = stamp_in(&text, &request).expect("stamped");
            let told = kernel.stamped_control(stamp).expect("read").expect("known");
            assert_eq!(told.client, from, "the proxy's end");
        }
    });
}

/// What arrives as it was sent, and tells nothing.
fn untouched(kernel: &Kernel, listener: &TcpListener, client: &mut TcpStream, pieces: &[&str]) {
    let (_server, _, text) = sent(listener, client, pieces);
    assert_eq!(text, pieces.concat());
    if let Some(at) = text.to_ascii_lowercase().find("origin: ") {
        let told = stamp::parse(&text[at + "origin: ".len()..]).map(|s| kernel.stamped_control(s));
        assert!(!matches!(told, Some(Ok(Some(_)))), "{text}");
    }
}

#[test]
fn what_is_no_websocket_to_frps_is_not_touched() {
    let Some(node) = Node::new("greet-none") else {
        return;
    };
    node.on(&["us0"], XdpMode::Off)
        .run_after(link_up, |kernel, peer| {
            lend(&kernel, TCP, &five());
            let whole = request("node.example:7000");
            let frps = listen(BIND_PORT);
            // In pieces, by another method or path, without an origin, with one that is too short to
            // bear a stamp, and with somebody's guess at one, which the filter does not see.
            let half = whole.find("Origin").expect("an origin") + 3;
            let guess = whole.replace("http://node.example", "t:aaaaaaaaaaaaaaaaa");
            for pieces in [
                &[&whole[..half], &whole[half..]][..],
                &[&guess[..half], &guess[half..]],
                &[&whole[..3], &whole[3..]],
                &[&whole.replace("GET", "PUT")],
                &[&whole.replace("/~!frp", "/~!fry")],
                &[&whole.replace("Origin", "Source")],
                &[&request("a.b:80")],
            ] {
                untouched(&kernel, &frps, &mut reach(&peer, NODE4), pieces);
            }
            // Another service's, and by an interface that is not filtered.
            let users = listen(PORT);
            let mut user = peer.run(|| TcpStream::connect((NODE4, PORT)).expect("connect"));
            untouched(&kernel, &users, &mut user, &[&whole]);
            let mut local = connect(v4(BIND_PORT)).expect("connect");
            untouched(&kernel, &frps, &mut local, &[&whole]);
        });
}

#[test]
fn who_greets_again_and_again_is_let_through_unsearched() {
    /// As many as the filter looks at (`LOOKS` of the programs), and more.
    const LOOKS: usize = 8;
    let Some(node) = Node::new("greet-more") else {
        return;
    };
    node.on(&["us0"], XdpMode::Off)
        .run_after(link_up, |_kernel, peer| {
            let listener = listen(BIND_PORT);
            let request = request("node.example:7000");
            let mut client = reach(&peer, NODE4);
            let pieces = [request.as_str(); LOOKS + 4];
            let (_server, _, text) = sent(&listener, &mut client, &pieces);
            let stamped: Vec<bool> = text
                .as_bytes()
                .chunks(request.len())
                .map(|one| one != request.as_bytes())
                .collect();
            assert_eq!(stamped.iter().filter(|is| **is).count(), LOOKS);
            assert!(stamped[..LOOKS].iter().all(|is| *is), "{stamped:?}");
        });
}
