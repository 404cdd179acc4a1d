//! Connections to frps's own port: frpc's.

use std::net::SocketAddr;

use totoro_ebpf::abi;

use super::maps::found;
use super::{Context, Control, ControlSocket, Kernel, Result, from_addr, scoped, to_addr};

impl Kernel {
    /// The TCP connection to frps's own port that comes from `client`; `None` for what is no plain
    /// TCP connection (kcp, quic), has ended, or is older than the programs.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn control_socket(&self, client: SocketAddr) -> Result<Option<ControlSocket>> {
        let key = abi::ControlKey {
            remote: to_addr(client.ip()),
            remote_port: client.port(),
            pad: [0; 3],
        };
        let control = found(self.shared.maps().control.get(&key, 0)).on("read", "CONTROL")?;
        Ok(control.map(|control| ControlSocket {
            cookie: control.cookie,
            client,
            local: local_of(&control),
        }))
    }

    /// All TCP connections to frps's own port.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn controls(&self) -> Result<Vec<Control>> {
        let all = self.shared.tables.control.all()?;
        let control = |(key, control): (abi::ControlKey, abi::Control)| Control {
            socket: ControlSocket {
                cookie: control.cookie,
                client: (from_addr(&key.remote), key.remote_port).into(),
                local: local_of(&control),
            },
            opened_ns: control.opened_ns,
        };
        Ok(all.into_iter().map(control).collect())
    }

    /// Destroys frpc's connection, by cookie; false when it had ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn destroy_control(&self, socket: &ControlSocket) -> Result<bool> {
        let interface = match socket.local {
            SocketAddr::V6(local) => local.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        self.shared
            .destroyer()
            .destroy(socket.local, socket.client, interface, socket.cookie)
    }
}

/// The node's end, with the interface that the connection is bound to as its scope.
fn local_of(control: &abi::Control) -> SocketAddr {
    scoped(
        from_addr(&control.local),
        control.local_port,
        control.ifindex,
    )
}
