//! Limits of TCP user connections, with real sockets: each test has a network namespace, a cgroup and
//! a pin directory of its own, and leaves nothing behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{self, Node, eventually};
use totoro_api::Reason;
use totoro_ebpf::abi::{CUT, HELD, SURPLUS, TCP, Tenant};
use totoro_node::kernel::boot_ns;
use totoro_tests::net::burst::Burst;

use crate::sockets::{PORT, burst, connect, echo_server, five, lend, listen, v4, v6};

#[test]
fn without_a_lease_the_kernel_answers_rst_and_counts() {
    let Some(node) = Node::new("no-lease") else {
        return;
    };
    node.run(|kernel| {
        let _listener = listen(PORT);
        for to in [v4(PORT), v6(PORT)] {
            // By an answer: silence would be a timeout.
            let error = connect(to).expect_err("nobody may connect");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        }
        // A port outside the pool is none of our business.
        let other = listen(19_999);
        connect(v4(19_999)).expect("outside the pool");
        drop(other);
        let refused = kernel.refused().expect("counters");
        let no_lease: u64 = refused
            .iter()
            .filter(|r| r.reason == Reason::NoLease)
            .map(|r| r.count)
            .sum();
        assert_eq!(no_lease, 2, "{refused:?}");
    });
}

#[test]
fn max_conns_is_exact_and_the_sixth_gets_rst() {
    let Some(node) = Node::new("max-conns") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let mut held: Vec<(TcpStream, TcpStream)> = (0..5)
            .map(|nth| {
                let to = if nth % 2 == 0 { v4(PORT) } else { v6(PORT) };
                (
                    connect(to).expect("one of five"),
                    listener.accept().expect("accept").0,
                )
            })
            .collect();
        // IPv4 and IPv6 loopback are two sources, so max_conns is what bites.
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 5);
        let error = connect(v4(PORT)).expect_err("the sixth");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        // Who never acknowledges is ended by the kernel, not kept for ever.
        let timeout =
            nix::sys::socket::getsockopt(&held[0].1, nix::sys::socket::sockopt::TcpUserTimeout);
        assert_eq!(timeout, Ok(60_000), "TCP_USER_TIMEOUT, ms");
        // The five go on.
        for (client, server) in &mut held {
            client.write_all(b"ping").expect("send");
            let mut got = [0; 4];
            server.read_exact(&mut got).expect("receive");
        }
        let one = held.pop();
        drop(one);
        eventually("the count falls", || {
            kernel.counts(1).is_ok_and(|c| c.usage.conns == 4)
        });
        held.push((
            connect(v4(PORT)).expect("room again"),
            listener.accept().expect("accept").0,
        ));
        drop(held);
        eventually("the count is back to 0", || {
            kernel.counts(1).is_ok_and(|c| c.usage.conns == 0)
                && kernel.connections().is_ok_and(|conns| conns.is_empty())
        });
        let refused = kernel.refused().expect("counters");
        assert!(
            refused
                .iter()
                .any(|r| (r.tenant, r.reason, r.count) == (1, Reason::MaxConns, 1)),
            "{refused:?}"
        );
        assert_eq!(kernel.counts(1).expect("counts").usage.admitted, 6);
    });
}

#[test]
fn a_burst_never_has_more_than_the_limit_pass_a_byte() {
    let Some(node) = Node::new("burst") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let received = echo_server(listener);
        let results = burst(v4(PORT), 100, true);
        let passed = results.iter().filter(|outcome| outcome.echoed).count();
        assert!(passed <= 5, "{passed} of 100 got a byte back");
        assert!(passed >= 1, "somebody must get through");
        assert!(
            received.distinct() <= 5,
            "{} connections delivered bytes",
            received.distinct()
        );
        let counts = kernel.counts(1).expect("counts").usage;
        assert!(counts.conns <= 5, "{counts:?}");
        drop(results);
        eventually("the count is back to 0", || {
            kernel.counts(1).is_ok_and(|c| c.usage.conns == 0)
                && kernel.connections().is_ok_and(|conns| conns.is_empty())
        });
        // The listener was not harmed.
        connect(v4(PORT)).expect("the listener listens");
    });
}

#[test]
fn a_burst_that_was_admitted_as_a_whole_is_muted_but_for_the_limit() {
    let Some(node) = Node::new("muted") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let received = echo_server(listener);
        let mut burst = Burst::start_here(v4(PORT), 100, |_| true).expect("burst");
        burst.drive(Duration::from_secs(1)).expect("drive");
        // All but a few, were the machine ever so busy: far more than were counted in time.
        assert!(burst.connected() > 50, "only {}", burst.connected());
        assert!((1..=5).contains(&burst.served()), "{}", burst.served());
        assert!(received.distinct() <= 5, "{} heard", received.distinct());
        eventually("the surplus is destroyed", || {
            kernel
                .connections()
                .is_ok_and(|conns| conns.iter().all(|conn| conn.conn.flags & SURPLUS == 0))
        });
        let counts = kernel.counts(1).expect("counts").usage;
        assert_eq!(counts.conns, 5, "{counts:?}");
        let admitted = burst.connected() as u64;
        assert_eq!(counts.surplus, admitted - 5, "{counts:?}");
    });
}

#[test]
fn a_cut_tenant_passes_nothing_and_its_sockets_end() {
    let Some(node) = Node::new("cut") else { return };
    node.run(|kernel| {
        let listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let mut client = connect(v4(PORT)).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        let paused = Tenant {
            state: HELD,
            reason: Reason::InvitePaused.number(),
            ..five()
        };
        kernel.put_tenant(1, &paused).expect("pause");
        assert!(connect(v4(PORT)).is_err(), "paused refuses what is new");
        client.write_all(b"on").expect("send");
        let mut got = [0; 2];
        server.read_exact(&mut got).expect("what lives goes on");
        let cut = Tenant {
            state: CUT,
            reason: Reason::InviteRevoked.number(),
            ..five()
        };
        kernel.put_tenant(1, &cut).expect("revoke");
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("timeout");
        client.write_all(b"late").expect("into the local buffer");
        assert!(
            server.read(&mut got).is_err(),
            "no byte passes after the cut"
        );
        assert_eq!(kernel.destroy_tenant(1).expect("destroy"), 1);
        let error = client.read(&mut got).expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        eventually("the count is 0", || {
            kernel.counts(1).is_ok_and(|c| c.usage.conns == 0)
        });
        kernel.put_tenant(1, &five()).expect("resume");
        connect(v4(PORT)).expect("the listener lives");
    });
}

#[test]
fn expiry_holds_without_anybody_acting() {
    let Some(node) = Node::new("expiry") else {
        return;
    };
    node.run(|kernel| {
        let _listener = listen(PORT);
        // Long enough that the first connect is before it on any machine.
        let expires_ns = boot_ns() + 2_000_000_000;
        let soon = Tenant {
            expires_ns,
            ..five()
        };
        lend(&kernel, TCP, &soon);
        connect(v4(PORT)).expect("before");
        std::thread::sleep(Duration::from_nanos(expires_ns.saturating_sub(boot_ns())));
        assert!(connect(v4(PORT)).is_err(), "expired");
        let refused = kernel.refused().expect("counters");
        assert!(
            refused.iter().any(|r| r.reason == Reason::InviteExpired),
            "{refused:?}"
        );
    });
}

#[test]
fn the_rate_is_spent_at_established_and_a_source_has_its_share() {
    let Some(node) = Node::new("rate") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        // Two, and then one a minute: no stall of the machine makes room for a third.
        let (conn_interval_ns, conn_burst_ns) = (60_000_000_000, 120_000_000_000);
        let rated = Tenant {
            conn_interval_ns,
            conn_burst_ns,
            ..five()
        };
        lend(&kernel, TCP, &rated);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push((
                connect(v4(PORT)).expect("burst"),
                listener.accept().expect("accept"),
            ));
        }
        assert!(connect(v4(PORT)).is_err(), "above the rate");
        kernel
            .put_tenant(
                1,
                &Tenant {
                    max_conns_per_source: 2,
                    ..five()
                },
            )
            .expect("tenant");
        assert!(connect(v4(PORT)).is_err(), "this source has two");
        connect(v6(PORT)).expect("another source");
        let refused = kernel.refused().expect("counters");
        for reason in [Reason::ConnRate, Reason::MaxConnsPerSource] {
            assert!(
                refused.iter().any(|r| r.reason == reason && r.count == 1),
                "{refused:?}"
            );
        }
    });
}

#[test]
fn all_children_of_a_parent_share_its_ceiling() {
    let Some(node) = Node::new("parent") else {
        return;
    };
    node.run(|kernel| {
        let listeners = (listen(PORT), listen(PORT + 1));
        let all = Tenant {
            max_conns: 2,
            ..five()
        };
        kernel.put_tenant(9, &all).expect("parent");
        for (tenant, port) in [(1, PORT), (2, PORT + 1)] {
            kernel
                .put_tenant(
                    tenant,
                    &Tenant {
                        parent: 9,
                        ..five()
                    },
                )
                .expect("child");
            let lease = support::lease(tenant, u64::from(tenant));
            kernel
                .put_lease(support::key(TCP, port), &lease)
                .expect("lease");
        }
        let held = (
            connect(v4(PORT)).expect("first"),
            connect(v4(PORT + 1)).expect("second"),
        );
        assert!(connect(v4(PORT)).is_err(), "the parent is full");
        let refused = kernel.refused().expect("counters");
        assert!(
            refused.iter().any(|r| r.reason == Reason::PublicFull),
            "{refused:?}"
        );
        let accepted = (listeners.0.accept(), listeners.1.accept());
        drop((held, accepted));
        eventually("room again", || connect(v4(PORT)).is_ok());
    });
}
