//! Frames for the packet table, built from their parts.

use std::net::IpAddr;

use totoro_ebpf::abi::TCP;
use totoro_ebpf::packet::SYN;

/// A packet, from the outside in.
#[derive(Clone)]
pub(crate) struct Packet {
    pub tags: Vec<u16>,
    pub from: IpAddr,
    pub to: IpAddr,
    pub options: usize,
    pub extensions: Vec<u8>,
    pub fragment: u16,
    pub proto: u8,
    pub ports: (u16, u16),
    pub flags: u8,
    pub cut_to: Option<usize>,
}

/// A SYN (or a datagram) without anything special.
pub(crate) fn packet(from: IpAddr, to: IpAddr, proto: u8, port: u16) -> Packet {
    Packet {
        tags: vec![],
        from,
        to,
        options: 0,
        extensions: vec![],
        fragment: 0,
        proto,
        ports: (40_000, port),
        flags: SYN,
        cut_to: None,
    }
}

impl Packet {
    /// The packet, changed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Packet)) -> Packet {
        change(&mut self);
        self
    }

    /// The frame's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 5]);
        }
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend(0x0800u16.to_be_bytes());
                let total = 20 + self.options * 4 + self.transport().len();
                bytes.extend([0x45 + self.options as u8, 0]);
                bytes.extend((total as u16).to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([64, self.proto, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(vec![1; self.options * 4]);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend(0x86ddu16.to_be_bytes());
                let length = self.extensions.len() * 8 + self.transport().len();
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((length as u16).to_be_bytes());
                let mut chain = self.extensions.clone();
                chain.push(self.proto);
                bytes.extend([chain[0], 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                for (kind, next) in self.extensions.iter().zip(&chain[1..]) {
                    let offset = if *kind == 44 { self.fragment << 3 } else { 0 };
                    bytes.extend([*next, 0]);
                    bytes.extend(offset.to_be_bytes());
                    bytes.extend([0; 4]);
                }
            }
            _ => panic!("one family per packet"),
        }
        bytes.extend(self.transport());
        if let Some(len) = self.cut_to {
            bytes.truncate(len);
        }
        bytes
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        if self.proto == TCP {
            bytes.extend([
                0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0,
            ]);
        } else {
            bytes.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        }
        bytes
    }
}
