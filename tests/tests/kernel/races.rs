//! Destroying by cookie, against a connection that ends and comes back meanwhile: only the socket
//! that was meant ever dies.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect as connect_fd,
    setsockopt, socket, sockopt,
};
use totoro_ebpf::abi::{TCP, Tenant};
use totoro_node::kernel::ControlSocket;

use crate::sockets::{PORT, connect, five, lend, listen, v4};
use crate::support::{BIND_PORT, Node};

/// Rounds of closing and coming back.
const ROUNDS: usize = 10_000;
/// frpc's one port: each connection has the 4-tuple of the one before.
const CLIENT_PORT: u16 = 4_000;

/// A connection from [`CLIENT_PORT`]. The one before may need a moment to be gone.
fn come() -> TcpStream {
    let begun = Instant::now();
    loop {
        match try_come() {
            Ok(stream) => return stream,
            Err(error) => assert!(
                error.kind() == ErrorKind::AddrNotAvailable
                    && begun.elapsed() < Duration::from_secs(5),
                "{error}"
            ),
        }
    }
}

/// Reset when it is closed, so that the port is free at once.
fn try_come() -> std::io::Result<TcpStream> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&fd, sockopt::Linger, &now)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, CLIENT_PORT))?;
    connect_fd(fd.as_raw_fd(), &SockaddrStorage::from(v4(BIND_PORT)))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Whether a byte goes there and back.
fn lives(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    let there = client.write_all(b"?").is_ok() && matches!(server.read(&mut [0; 1]), Ok(1));
    there && server.write_all(b"!").is_ok() && matches!(client.read(&mut [0; 1]), Ok(1))
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (server, _) = listener.accept().expect("the listener listens");
    server
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("timeout");
    server
}

#[test]
fn ten_thousand_races_of_close_and_reuse_against_destroy_harm_nobody() {
    let Some(node) = Node::new("races") else {
        return;
    };
    node.run(|kernel| {
        let (frps, users) = (listen(BIND_PORT), listen(PORT));
        let room = Tenant {
            max_conns: 100,
            max_conns_per_source: 100,
            ..five()
        };
        lend(&kernel, TCP, &room);
        let mut neighbours: Vec<(TcpStream, TcpStream)> = (0..8)
            .map(|_| (connect(v4(PORT)).expect("user"), accept(&users)))
            .collect();
        let from: SocketAddr = ([127, 0, 0, 1], CLIENT_PORT).into();
        let (orders, queue) = channel::<ControlSocket>();
        let (tell, told) = channel();
        let (mut hit, mut gone) = (0, 0);
        std::thread::scope(|scope| {
            let kernel = &kernel;
            scope.spawn(move || {
                for socket in queue {
                    tell.send(kernel.destroy_control(&socket).expect("answered"))
                        .expect("told");
                }
            });
            for round in 0..ROUNDS {
                let mut client = come();
                let mut server = accept(&frps);
                let known = kernel.control_socket(from).expect("read");
                orders.send(known.expect("known")).expect("order");
                // Sometimes the close is first, sometimes the order.
                for _ in 0..(round % 64) * 8 {
                    std::hint::spin_loop();
                }
                drop(client);
                drop(server);
                client = come();
                server = accept(&frps);
                match told.recv().expect("answered") {
                    true => hit += 1,
                    false => gone += 1,
                }
                assert!(
                    lives(&mut client, &mut server),
                    "round {round}: hit the next one"
                );
            }
            drop(orders);
        });
        assert_eq!(hit + gone, ROUNDS);
        println!("{ROUNDS} races: {hit} were destroyed, {gone} had ended before");
        assert!(
            hit > 0 && gone > 0,
            "no race: {hit} destroyed, {gone} too late"
        );
        for (client, server) in &mut neighbours {
            assert!(lives(client, server), "a neighbour");
        }
        connect(v4(PORT)).expect("the users' listener listens");
    });
}
