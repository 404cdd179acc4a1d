//! Users and services of the kernel tests: plain sockets.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use totoro_ebpf::abi::{ACTIVE, Tenant};
use totoro_node::kernel::Kernel;
use totoro_tests::net::burst::QuickAck;

use crate::support;

/// A pool port.
pub(crate) const PORT: u16 = 20_000;

/// A tenant with room for five connections and three flows.
pub(crate) fn five() -> Tenant {
    Tenant {
        state: ACTIVE,
        max_conns: 5,
        max_flows: 3,
        max_conns_per_source: 5,
        ..Tenant::default()
    }
}

/// Lends a port to a tenant, 1.
pub(crate) fn lend(kernel: &Kernel, protocol: u8, tenant: &Tenant) {
    kernel.put_tenant(1, tenant).expect("tenant");
    kernel
        .put_lease(support::key(protocol, PORT), &support::lease(1, 7))
        .expect("lease");
}

/// Lends a port to a public tenant, 1, whose parent, 9, has limits of its own.
pub(crate) fn lend_public(kernel: &Kernel, protocol: u8, parent: &Tenant, child: Tenant) {
    kernel.put_tenant(9, parent).expect("parent");
    let child = Tenant { parent: 9, ..child };
    lend(kernel, protocol, &child);
}

/// The node's loopback address.
pub(crate) fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The node's loopback address, IPv6.
pub(crate) fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

/// A dual-stack listener, as frps makes them.
pub(crate) fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("listen")
}

/// Connects within two seconds.
pub(crate) fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Which connections delivered bytes to a server.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<HashSet<SocketAddr>>>);

impl Received {
    /// How many.
    pub(crate) fn distinct(&self) -> usize {
        self.0.lock().expect("lock").len()
    }
}

/// Serves an echo on a listener, for as long as the process lives, a thread per connection.
pub(crate) fn echo_server(listener: TcpListener) -> Received {
    let received = Received::default();
    let seen = received.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let seen = seen.clone();
            std::thread::spawn(move || {
                // A banner, as ssh has: nothing of it may reach a surplus connection.
                let _ = stream.write_all(b"!");
                let mut buffer = [0; 512];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if let Ok(peer) = stream.peer_addr() {
                        seen.0.lock().expect("lock").insert(peer);
                    }
                    if stream.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    received
}

/// How one connection of a burst fared.
pub(crate) struct Outcome {
    /// Kept open until it is dropped.
    pub _stream: Option<TcpStream>,
    /// Whether a byte came back.
    pub echoed: bool,
}

/// `count` connects at once, each sending at once, in the handshake's last ACK where `in_ack`.
pub(crate) fn burst(to: SocketAddr, count: usize, in_ack: bool) -> Vec<Outcome> {
    let netns = std::fs::File::open("/proc/thread-self/ns/net").expect("netns");
    let barrier = Arc::new(std::sync::Barrier::new(count));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            let netns = netns.try_clone().expect("clone");
            std::thread::spawn(move || {
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
                barrier.wait();
                attempt(to, in_ack)
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("thread"))
        .collect()
}

fn attempt(to: SocketAddr, in_ack: bool) -> Outcome {
    let none = Outcome {
        _stream: None,
        echoed: false,
    };
    let Ok(mut stream) = connect_quiet(to, in_ack) else {
        return none;
    };
    stream
        .set_read_timeout(Some(Duration::from_millis(1500)))
        .expect("timeout");
    if stream.write_all(b"first").is_err() {
        return none;
    }
    let echoed = matches!(stream.read(&mut [0; 16]), Ok(1..));
    Outcome {
        _stream: Some(stream),
        echoed,
    }
}

/// Connects; with `in_ack` the handshake's last ACK waits for the first data.
fn connect_quiet(to: SocketAddr, in_ack: bool) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
    use std::os::fd::AsRawFd;
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if in_ack {
        nix::sys::socket::setsockopt(&fd, QuickAck, &false)?;
    }
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}
