//! Who has which port: decided as at every grade, and shown to the kernel.

pub use totoro_api::decide::{
    Lease, Patience, Plan, PortId, Ports, Summed, Waiting, Wish, parse_key, record_key,
};
use totoro_api::ports::Protocol;
use totoro_ebpf::abi;

/// A port of the kernel's maps.
#[must_use]
pub fn port_of(key: abi::PortKey) -> Option<PortId> {
    let mut all = Protocol::ALL.into_iter();
    let protocol = all.find(|of| of.ip_number() == key.proto)?;
    Some((protocol, key.port))
}

/// A port as the kernel's maps have it.
#[must_use]
pub const fn port_key(port: PortId) -> abi::PortKey {
    abi::PortKey {
        port: port.1,
        proto: port.0.ip_number(),
        pad: 0,
    }
}
