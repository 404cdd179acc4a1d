//! What the daemon does to sockets, leases and pins, and what operators see.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, UdpSocket};

use totoro_api::ports::{Pool, PortRange, PortSet};
use totoro_ebpf::abi::{TCP, UDP};
use totoro_node::kernel::Kernel;

use crate::sockets::{PORT, connect, five, lend, listen, v4, v6};
use crate::support::{self, Node, eventually};

#[test]
fn bpftool_shows_every_operators_map_with_named_fields() {
    let Some(node) = Node::new("bpftool") else {
        return;
    };
    let pins = node.options().pin_root.join("v1");
    node.run(move |kernel| {
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        for proto in [TCP, UDP] {
            kernel
                .put_lease(support::key(proto, PORT), &support::lease(1, 7))
                .expect("lease");
        }
        let _held = (
            connect(v4(PORT)).expect("connect"),
            listener.accept().expect("accept"),
        );
        connect(v4(PORT + 1)).expect_err("no lease");
        let (server, user) = (
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind"),
            UdpSocket::bind(v4(0)).expect("bind"),
        );
        user.send_to(b"hello", v4(PORT)).expect("send");
        let (_, from) = server.recv_from(&mut [0; 8]).expect("delivered");
        server.send_to(b"answer", from).expect("send");
        kernel
            .set_bans(&[("192.0.2.0/24".parse().expect("prefix"), 0)].into())
            .expect("ban");
        for (map, field) in [
            ("PORTS", "expires_ns"),
            ("PORT_USAGE", "admitted"),
            ("TENANTS", "max_conns_per_source"),
            ("USAGE", "flows_opened"),
            ("CONNS", "opened_ns"),
            ("FLOWS", "bytes_in"),
            ("REASONS", "last_ns"),
            ("TRAFFIC", "packets_in"),
            ("BANS", "until_ns"),
            ("CONFIG", "netns_cookie"),
        ] {
            let dump = std::process::Command::new("bpftool")
                .args(["map", "dump", "pinned"])
                .arg(pins.join(map))
                .output()
                .expect("bpftool runs");
            let text = String::from_utf8_lossy(&dump.stdout);
            assert!(text.contains(&format!("\"{field}\"")), "{map}: {text}");
        }
    });
}

#[test]
fn a_closed_lease_takes_its_connections_along() {
    let Some(node) = Node::new("close") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let mut client = connect(v4(PORT)).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        server.write_all(&[7; 1000]).expect("send");
        let mut got = [0; 1000];
        client.read_exact(&mut got).expect("receive");
        kernel.remove_lease(key).expect("close");
        let traffic = kernel.lease_counts(1, key).expect("counts");
        assert!(
            traffic.bytes_out > 1000 && traffic.bytes_in > 0,
            "{traffic:?}"
        );
        assert!(client.read(&mut got).is_err(), "destroyed");
        assert!(connect(v4(PORT)).is_err(), "no lease");
        assert_eq!(kernel.leases().expect("leases"), []);
    });
}

#[test]
fn a_connection_that_outlived_its_lease_is_found_by_the_sweep() {
    let Some(node) = Node::new("orphan") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        for tenant in [1, 2] {
            kernel.put_tenant(tenant, &five()).expect("tenant");
        }
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let mut client = connect(v4(PORT)).expect("connect");
        let _server = listener.accept().expect("accept");
        // Another tenant has the port now; the connection was not seen when the first lease ended.
        kernel.put_lease(key, &support::lease(2, 8)).expect("lease");
        eventually("the orphan is destroyed", || {
            kernel.sweep().is_ok_and(|s| s.orphans == 1)
        });
        assert!(client.read(&mut [0; 1]).is_err(), "reset");
        let counts = [1, 2].map(|tenant| kernel.counts(tenant).expect("counts").usage.conns);
        assert_eq!(
            counts,
            [0, 0],
            "charged to whom it was admitted under, and taken back there"
        );
    });
}

#[test]
fn frpcs_connection_is_known_by_its_address_and_ends_on_demand() {
    let Some(node) = Node::new("control") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(support::BIND_PORT);
        let mut client = connect(v4(support::BIND_PORT)).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        let address = client.local_addr().expect("address");
        let socket = kernel
            .control_socket(address)
            .expect("read")
            .expect("known");
        assert_eq!(socket.local, v4(support::BIND_PORT));
        assert!(kernel.destroy_control(&socket).expect("destroy"));
        assert!(client.read(&mut [0; 1]).is_err(), "reset");
        drop(server);
        eventually("forgotten", || {
            kernel.control_socket(address).is_ok_and(|s| s.is_none())
        });
        // Again, after it has ended: nothing happens, least of all to the listener.
        assert!(!kernel.destroy_control(&socket).expect("destroy"));
        connect(v4(support::BIND_PORT)).expect("the listener lives");
        let other = UdpSocket::bind(v4(0))
            .expect("bind")
            .local_addr()
            .expect("address");
        assert_eq!(
            kernel.control_socket(other).expect("read"),
            None,
            "no TCP connection"
        );
    });
}

#[test]
fn a_banned_source_reaches_neither_pool_nor_frps() {
    let Some(node) = Node::new("ban") else { return };
    node.run(|kernel| {
        let _listeners = (listen(PORT), listen(support::BIND_PORT));
        lend(&kernel, TCP, &five());
        let prefix: ipnet::IpNet = "127.0.0.0/8".parse().expect("prefix");
        kernel.set_bans(&[(prefix, 0)].into()).expect("ban");
        assert_eq!(kernel.bans().expect("bans"), [(prefix, 0)]);
        assert!(connect(v4(PORT)).is_err() && connect(v4(support::BIND_PORT)).is_err());
        connect(v6(PORT)).expect("not the other family");
        kernel.set_bans(&[].into()).expect("lift");
        connect(v4(PORT)).expect("lifted");
    });
}

#[test]
fn a_second_daemon_and_foreign_pins_are_refused_and_a_restart_adopts() {
    let Some(node) = Node::new("pins") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        let error = Kernel::load(&options).err().expect("locked");
        assert!(
            support::chain(&error).contains("another totoro-node"),
            "{error}"
        );
        let listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let held = connect(v4(PORT)).expect("connect");
        drop(kernel);
        // Without the daemon: the lease stands, the count holds.
        let more: Vec<_> = (0..4)
            .map(|_| connect(v4(PORT)).expect("room for four"))
            .collect();
        assert!(connect(v4(PORT)).is_err(), "enforced without a daemon");
        let before = support::link_ids(&options.pin_root);
        let kernel = Kernel::load(&options).expect("adopts");
        assert_eq!(support::link_ids(&options.pin_root), before, "links stay");
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 5);
        drop((held, more, listener));
        drop(kernel);
        support::pin_a_map_of_another_size(&options.pin_root);
        let error = Kernel::load(&options).err().expect("foreign pin");
        assert!(
            support::chain(&error).contains("value size"),
            "{}",
            support::chain(&error)
        );
    });
}

#[test]
fn what_was_guarded_outside_the_pool_is_guarded_by_the_next_daemon() {
    let Some(node) = Node::new("guarded") else {
        return;
    };
    const OUTSIDE: u16 = 30_000;
    let options = node.options();
    node.run(move |kernel| {
        let _frps = listen(OUTSIDE);
        let pool = &options.pool;
        assert_eq!(kernel.pool().expect("the pool"), *pool);
        connect(v4(OUTSIDE)).expect("nobody's affair");
        let beside = PortRange::new(OUTSIDE, OUTSIDE).expect("range");
        let more = |set: &PortSet| set.ranges().iter().copied().chain([beside]).collect();
        let guarded = Pool {
            tcp: more(&pool.tcp),
            udp: pool.udp.clone(),
        };
        kernel.set_pool(&guarded).expect("guarded");
        drop(kernel);
        let kernel = Kernel::load(&options).expect("adopts");
        assert_eq!(kernel.pool().expect("the pool"), guarded);
        assert!(connect(v4(OUTSIDE)).is_err(), "frps may be listening");
        kernel.set_pool(pool).expect("written");
        connect(v4(OUTSIDE)).expect("nobody's affair any more");
    });
}
