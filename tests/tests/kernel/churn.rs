//! Counts under users who come and go all the time.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use totoro_ebpf::abi::{TCP, Tenant};

use crate::sockets::{PORT, connect, five, lend_public, listen, v4};
use crate::support::{Node, eventually};

/// The tenant's connections, and its parent's.
const MOST: u32 = 100;
/// More users than that, who take turns.
const USERS: usize = 2;
const EACH: usize = 60;

/// A connection that ends at once, on both sides, when it is dropped.
fn come() -> Option<TcpStream> {
    let stream = connect(v4(PORT)).ok()?;
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &now).expect("linger");
    Some(stream)
}

#[test]
fn a_full_tenant_whose_users_take_turns_is_counted_right() {
    const RECOUNTS: usize = 100;
    let Some(node) = Node::new("churn") else {
        return;
    };
    node.run(|kernel| {
        let all = Tenant {
            max_conns: MOST,
            max_conns_per_source: 1_000,
            ..five()
        };
        lend_public(&kernel, TCP, &all, all);
        let listener = listen(PORT);
        let held = Arc::new(Mutex::new(VecDeque::new()));
        let holding = Arc::clone(&held);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut held = holding.lock().expect("held");
                held.push_back(stream);
                // The oldest has long ended: its user came back since.
                if held.len() > 10 * USERS * EACH {
                    held.pop_front();
                }
            }
        });
        let admitted = || kernel.counts(1).expect("counts").usage.admitted;
        let stop = AtomicBool::new(false);
        let take_turns = || {
            let mut held = VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                if held.len() >= EACH {
                    held.pop_front();
                }
                held.push_back(come());
            }
        };
        std::thread::scope(|scope| {
            let users = [(); USERS].map(|()| scope.spawn(take_turns));
            let mut recounts = Vec::new();
            // For as long as it takes the users, who may have to wait for a processor.
            while recounts.len() < RECOUNTS
                || admitted() < 4 * u64::from(MOST) && recounts.len() < 100 * RECOUNTS
            {
                recounts.push(kernel.recount());
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
            for user in users {
                user.join().expect("user");
            }
            println!("{} recounts, {} connections", recounts.len(), admitted());
            assert!(admitted() >= 4 * u64::from(MOST), "users took turns");
            let wrong: Vec<_> = recounts
                .iter()
                .filter(|mended| !matches!(mended, Ok(0)))
                .collect();
            assert!(wrong.is_empty(), "all was right: {wrong:?}");
        });
        eventually("all have gone", || {
            kernel.connections().expect("connections").is_empty()
        });
        assert_eq!(kernel.recount().expect("recount"), 0);
        let left = [1, 9, 0].map(|of| kernel.counts(of).expect("counts").usage.conns);
        assert_eq!(left, [0; 3], "and comes to nothing");
        // Who accepts is there as long as the test's program.
        held.lock().expect("held").clear();
    });
}
