//! The canary: enforcement is tried by a real connection, and what it finds broken closes the node.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use totoro_api::ports::Pool;
use totoro_node::clock::Clock;
use totoro_node::kernel::Kernel;
use totoro_node::session::ports::Patience;
use totoro_node::session::{Desk, Gate, Rules, Tools};
use totoro_node::store::Store;

use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{self, Node, eventually};

fn desk(kernel: &Arc<Kernel>, dir: &Path, pool: Pool) -> Desk {
    let tools = Tools {
        kernel: Arc::clone(kernel) as Arc<dyn Gate>,
        store: Arc::new(Store::open(dir).expect("store")),
        clock: Arc::new(Clock::new(0)),
        wake: Arc::default(),
    };
    let rules = Rules {
        node: "n1".to_owned(),
        own_ports: vec![],
        patience: Patience {
            reserve_ms: 0,
            cool_ms: 0,
        },
        grace_ms: 0,
        tcp_mux: true,
        counts_own: true,
        pool,
        host: String::new(),
    };
    Desk::open(tools, rules).expect("desk")
}

/// Takes a program off. The kernel lets go of it a moment after the pin.
fn detach(links: &Path, name: &str) {
    std::fs::remove_file(links.join(name)).expect("detach");
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn a_full_node_is_no_broken_one() {
    let Some(node) = Node::new("canary-full") else {
        return;
    };
    let node = node.with(|options| options.max_conns_total = 1);
    let dir = tempfile::tempdir().expect("a directory");
    let pool = node.options().pool;
    node.run(move |kernel| {
        let kernel = Arc::new(kernel);
        let desk = desk(&kernel, dir.path(), pool);
        let listener = listen(PORT);
        kernel.put_tenant(2, &five()).expect("tenant");
        let key = support::key(totoro_ebpf::abi::TCP, PORT);
        kernel.put_lease(key, &support::lease(2, 7)).expect("lease");
        let _held = (connect(v4(PORT)).expect("the one"), listener.accept());
        connect(v4(PORT)).expect_err("the node is full");
        for _ in 0..3 {
            assert!(desk.try_canary(), "{:?}", desk.canary_problem());
        }
        connect(v4(PORT)).expect_err("full as before, and not open");
        eventually("the canary's are gone", || {
            let node = kernel.counts(totoro_ebpf::abi::NODE).expect("counts");
            node.usage.conns == 1
        });
    });
}

#[test]
fn what_is_broken_is_found_and_closes_the_node_until_it_is_mended() {
    let Some(node) = Node::new("canary") else {
        return;
    };
    let links = node.options().pin_root.join("v1/links");
    let dir = tempfile::tempdir().expect("a directory");
    let pool = node.options().pool;
    node.run(move |kernel| {
        let kernel = Arc::new(kernel);
        let desk = desk(&kernel, dir.path(), pool);
        for _ in 0..3 {
            assert!(desk.try_canary(), "{:?}", desk.canary_problem());
        }
        // It leaves nothing.
        assert_eq!(kernel.leases().expect("leases"), []);
        assert!(kernel.refused().expect("reasons").is_empty());
        assert!(
            kernel
                .tenants()
                .expect("tenants")
                .iter()
                .all(|(number, _)| *number == 1)
        );

        for (program, says) in [
            ("totoro_admit", "a connection of a paused tenant was"),
            ("totoro_conns", "0 are counted"),
        ] {
            detach(&links, program);
            assert!(!desk.try_canary(), "{program}");
            assert_eq!(desk.canary_problem(), None, "one failure is tried again");
            assert!(!desk.try_canary(), "{program}");
            let problem = desk.canary_problem().expect("believed");
            assert!(problem.contains(says), "{program}: {problem}");

            let _listener = listen(PORT);
            kernel.put_tenant(2, &five()).expect("tenant");
            let key = support::key(totoro_ebpf::abi::TCP, PORT);
            kernel.put_lease(key, &support::lease(2, 7)).expect("lease");
            // That it is tried again lets nobody in. (Without the lookup the kernel refuses nobody.)
            if program == "totoro_conns" {
                let over = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let users = scope.spawn(|| {
                        let tries = (0..20).map(|_| connect(v4(PORT)).is_ok());
                        let let_in = tries.filter(|is_in| *is_in).count();
                        over.store(true, Ordering::Relaxed);
                        let_in
                    });
                    while !over.load(Ordering::Relaxed) {
                        assert!(!desk.try_canary());
                    }
                    assert_eq!(users.join().expect("users"), 0);
                });
            }
            // The sweep attaches it again; what is believed holds until the canary comes through.
            eventually("it is attached again", || {
                let _ = kernel.sweep();
                links.join(program).exists()
            });
            connect(v4(PORT)).expect_err("the node is closed");
            assert!(desk.try_canary(), "{:?}", desk.canary_problem());
            assert_eq!(desk.canary_problem(), None);
            connect(v4(PORT)).expect("open again");
            kernel.remove_lease(key).expect("close");
        }
    });
}
