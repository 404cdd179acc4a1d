//! Who has which port: decided as at every grade, and shown to the kernel.

pub use totoro_api::decide::{
    Lease, Patience, Plan, PortId, Ports, Summed, Waiting, Wish, parse_key, record_key,
};
use totoro_ebpf::abi;

/// A port as the kernel's maps have it.
#[must_use]
pub const fn port_key(port: PortId) -> abi::PortKey {
    abi::PortKey {
        port: port.1,
        proto: port.0.ip_number(),
        pad: 0,
    }
}
