//! A node with one invite, whose frpc holds a TCP and a UDP port.

use anyhow::{Context, Result};
use serde_json::Value;
use totoro_ebpf::abi::{PortKey, TCP, UDP};
use totoro_node::kernel::Inspector;
use totoro_tests::hostile::client::{Client, Way};
use totoro_tests::lab::Place;
use totoro_tests::story::World;
use totoro_tests::story::frpc::Proxy;

use crate::net::service::Service;

/// The pool port, of both protocols.
pub(super) const PORT: u16 = 20_000;

/// The node, its tenant and what it serves.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) kernel: Inspector,
    /// The tenant's number in the kernel.
    pub(super) tenant: u32,
    client: Client,
    _service: Service,
}

/// The tunnels of an invite: the pool port of both protocols.
pub(super) fn proxies(service: &Service, port: u16) -> [Proxy; 2] {
    [
        Proxy::new("web", "tcp", service.tcp, port),
        Proxy::new("dns", "udp", service.udp, port),
    ]
}

impl Stage {
    /// Raises it.
    ///
    /// # Errors
    /// The lab can't be had, or a proxy does not run.
    pub(super) fn raise(world: World, limits: Value) -> Result<Stage> {
        let service = Service::start(world.lab.ns(Place::Client), false)?;
        let proxies = proxies(&service, PORT);
        let client = Client::start(&world, "tenant", limits, Way::PLAIN, &proxies)?;
        let kernel = Inspector::open(&world.lab.pin_root())?;
        let ports = kernel.ports()?;
        let leased = ports
            .iter()
            .find(|(key, ..)| (key.proto, key.port) == (TCP, PORT));
        let tenant = leased.context("the port is not leased")?.1.tenant;
        Ok(Stage {
            world,
            kernel,
            tenant,
            client,
            _service: service,
        })
    }

    /// Ends frpc in good order.
    pub(super) fn end(self) {
        self.client.frpc.stop();
    }
}

/// A port's key in the maps.
pub(super) const fn key(proto: u8) -> PortKey {
    assert!(proto == TCP || proto == UDP);
    PortKey {
        port: PORT,
        proto,
        pad: 0,
    }
}
