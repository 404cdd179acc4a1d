//! Maps and sockets that differ: the sockets are right.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use totoro_ebpf::abi::{CUT, TCP, Tenant};
use totoro_node::kernel::{Compared, Kernel, KernelOptions};

use crate::sockets::{PORT, connect, five, lend, listen, v4};
use crate::support::{BIND_PORT, Node};

fn open(kernel: &Kernel) {
    lend(kernel, TCP, &five());
}

/// Has a connection to each port end while nothing listens for ends, and loads again.
fn lose_closes(kernel: Kernel, options: &KernelOptions, listeners: &[TcpListener; 2]) -> Kernel {
    let pairs = [PORT, BIND_PORT].map(|port| connect(v4(port)).expect("connect"));
    let servers = listeners
        .each_ref()
        .map(|listener| listener.accept().expect("accept"));
    drop(kernel);
    let link = options.pin_root.join("v1/links/totoro_conns");
    std::fs::remove_file(link).expect("detach");
    // Let go of by the kernel a moment after the pin.
    std::thread::sleep(Duration::from_millis(200));
    drop((pairs, servers));
    std::thread::sleep(Duration::from_millis(100));
    Kernel::load(options).expect("loads")
}

#[test]
fn a_close_that_nobody_heard_is_taken_back() {
    let Some(node) = Node::new("lost") else {
        return;
    };
    let node = node.with(|options| options.control_per_source = 1);
    let options = node.options();
    node.run(move |kernel| {
        open(&kernel);
        let listeners = [listen(PORT), listen(BIND_PORT)];
        let kernel = lose_closes(kernel, &options, &listeners);
        let only_one = Tenant {
            max_conns_per_source: 1,
            ..five()
        };
        kernel.put_tenant(1, &only_one).expect("tenant");
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 1, "leaked");
        assert!(connect(v4(PORT)).is_err() && connect(v4(BIND_PORT)).is_err());
        let compare = || {
            let Compared {
                mended, untracked, ..
            } = kernel.compare_sockets().expect("compare");
            (mended, untracked)
        };
        assert_eq!(compare(), (0, 0), "once");
        assert_eq!(compare(), (2, 0), "twice");
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 0);
        assert_eq!(kernel.connections().expect("connections").len(), 0);
        // The tenant's and frps's shares of the source are back too; and what lives is let be.
        let _held = [PORT, BIND_PORT].map(|port| connect(v4(port)).expect("room"));
        for _ in 0..3 {
            assert_eq!(compare(), (0, 0));
        }
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 1);
    });
}

#[test]
fn what_can_not_be_destroyed_because_it_is_gone_is_taken_back() {
    let Some(node) = Node::new("lost-cut") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        open(&kernel);
        let listeners = [listen(PORT), listen(BIND_PORT)];
        let kernel = lose_closes(kernel, &options, &listeners);
        let cut = Tenant {
            state: CUT,
            ..five()
        };
        kernel.put_tenant(1, &cut).expect("cut");
        assert_eq!(kernel.destroy_tenant(1).expect("destroy"), 0, "it was gone");
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 0);
        assert_eq!(kernel.connections().expect("connections").len(), 0);
        let only_one = Tenant {
            max_conns_per_source: 1,
            ..five()
        };
        kernel.put_tenant(1, &only_one).expect("tenant");
        connect(v4(PORT)).expect("the source's share is back");
    });
}

#[test]
fn what_is_older_than_the_programs_has_to_come_again() {
    let Some(node) = Node::new("older") else {
        return;
    };
    let before = || {
        let listeners = [listen(PORT), listen(BIND_PORT), listen(19_999)];
        let pair = |listener: &TcpListener, port| {
            let client = connect(v4(port)).expect("connect");
            (client, listener.accept().expect("accept").0)
        };
        let old = [
            pair(&listeners[0], PORT),
            pair(&listeners[1], BIND_PORT),
            pair(&listeners[2], 19_999),
        ];
        let out = outward(&listeners[2]);
        (listeners, old, out)
    };
    node.run_after(before, |kernel, (_listeners, old, mut out)| {
        open(&kernel);
        let gone = |stream: &TcpStream| {
            stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .expect("timeout");
            let answer = (&*stream).read(&mut [0; 1]);
            answer.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        };
        let compared = kernel.compare_sockets().expect("compare");
        assert_eq!((compared.mended, compared.untracked), (0, 2));
        assert!(gone(&old[0].0), "the user's");
        assert!(gone(&old[1].0), "frpc's");
        assert!(!gone(&old[2].0), "outside the pool");
        // From a pool-numbered port, but not to one: the node's own affair.
        assert!(!gone(&out.0));
        assert!(matches!(out.1.read(&mut [0; 1]), Err(e)
            if e.kind() != std::io::ErrorKind::ConnectionReset));
        connect(v4(PORT)).expect("again");
    });
}

/// A connection from a pool-numbered port.
fn outward(listener: &TcpListener) -> (TcpStream, TcpStream) {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, socket,
    };
    use std::os::fd::AsRawFd;
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("socket");
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, PORT + 5)).expect("bind");
    connect(fd.as_raw_fd(), &SockaddrStorage::from(v4(19_999))).expect("connect");
    let server = listener.accept().expect("accept").0;
    server
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("timeout");
    (TcpStream::from(fd), server)
}

#[test]
fn a_sweep_compares_by_itself_and_finds_nothing_where_all_is_well() {
    let Some(node) = Node::new("well") else {
        return;
    };
    node.run(|kernel| {
        open(&kernel);
        let listener = listen(PORT);
        let held = (connect(v4(PORT)).expect("connect"), listener.accept());
        let _udp = UdpSocket::bind(v4(PORT)).expect("bind");
        for _ in 0..3 {
            let swept = kernel.sweep().expect("sweep");
            assert_eq!((swept.mended, swept.untracked, swept.orphans), (0, 0, 0));
        }
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 1);
        drop(held);
    });
}
