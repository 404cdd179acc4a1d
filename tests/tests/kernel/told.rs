//! What the daemon is told of without being woken reaches it all the same.

use std::net::TcpListener;

use totoro_ebpf::abi::{self, TCP};
use totoro_node::kernel::Kernel;

use crate::sockets::{PORT, five, v4};
use crate::support::{Node, chain, eventually, key, lease};

#[test]
fn an_ended_connection_is_told_of_though_nothing_else_happens() {
    let Some(node) = Node::new("told") else {
        return;
    };
    let options = node.options();
    node.run(|kernel| {
        // Another daemon, whose events are ours to read.
        drop(kernel);
        let mut kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let mut events = kernel.start_events().expect("events");
        kernel.put_tenant(1, &five()).expect("tenant");
        kernel
            .put_lease(key(TCP, PORT), &lease(1, 1))
            .expect("lease");
        let listener = TcpListener::bind(v4(PORT)).expect("bind");
        let user = std::net::TcpStream::connect(v4(PORT)).expect("connect");
        let server = listener.accept().expect("accept");
        drop(user);
        drop(server);
        let mut told = Vec::new();
        eventually("the connection's end is told of", || {
            while let Ok(event) = events.try_recv() {
                told.push((event.kind, event.port, event.tenant));
            }
            !told.is_empty()
        });
        assert_eq!(told, [(abi::EVENT_CLOSED, PORT, 1)]);
    });
}
