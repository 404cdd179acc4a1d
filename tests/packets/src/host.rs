//! The programs' parser on the host, against the model's: what both read of any bytes.

use fastrand::Rng;
use proptest::prelude::*;
use totoro_ebpf::packet::{Family, Headers};
use totoro_model::Seen;

use crate::random::{Clock, Packets, Scene};

/// What the programs' parser reads, as the model says it.
fn read(frame: &[u8]) -> Option<Seen> {
    let headers = Headers::from_ethernet(&frame)?;
    let (from, to) = headers.addresses(&frame).expect("before the ports");
    let is_v6 = headers.family == Family::V6;
    let seen = Seen {
        proto: headers.proto,
        from,
        to,
        from_port: headers.source_port,
        to_port: headers.destination_port,
        flags: headers.flags,
        extended: is_v6 && headers.transport != headers.network + 40,
        transport: headers.transport,
        data: headers.data,
    };
    assert_eq!(
        seen.is_opening(),
        headers.is_tcp_open(),
        "{}",
        hex::encode(frame)
    );
    Some(seen)
}

/// The same without its Ethernet header, as a cgroup's programs see it.
fn read_ip(frame: &[u8]) -> Option<Seen> {
    const ETHERNET: usize = 14;
    let packet = frame.get(ETHERNET..)?;
    let headers = Headers::from_ip(&packet)?;
    let (from, to) = headers.addresses(&packet)?;
    Some(Seen {
        from,
        to,
        proto: headers.proto,
        from_port: headers.source_port,
        to_port: headers.destination_port,
        flags: headers.flags,
        extended: headers.family == Family::V6 && headers.transport != 40,
        transport: headers.transport + ETHERNET,
        data: headers.data + ETHERNET,
    })
}

proptest! {
    /// Any bytes, mostly behind an ethertype that leads somewhere.
    #[test]
    fn whatever_comes(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        kind in prop_oneof![Just(None), Just(Some(0x0800u16)), Just(Some(0x86dd)), Just(Some(0x8100))],
        first in prop_oneof![Just(None), Just(Some(0x45u8)), Just(Some(0x60))],
        next in prop_oneof![Just(0u8), Just(6), Just(17), Just(43), Just(44), Just(51), Just(60)],
    ) {
        if let (Some(kind), true) = (kind, frame.len() > 24) {
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
        }
        if let (Some(first), true) = (first, frame.len() > 24) {
            frame[14] = first;
            if first == 0x45 {
                frame[20..22].fill(0);
                frame[23] = next;
            } else {
                frame[20] = next;
            }
        }
        prop_assert_eq!(read(&frame), Seen::read(&frame), "{}", hex::encode(&frame));
    }

    /// Packets of every kind.
    #[test]
    fn what_the_generator_makes(seed in any::<u64>()) {
        let mut dice = Rng::with_seed(seed);
        let clock = Clock { now: 1_000_000_000_000_000, is_coarse: false };
        let scene = Scene::new(&mut dice, clock);
        let mut packets = Packets::default();
        for _ in 0..100 {
            let frame = packets.next(&mut dice, &scene);
            let seen = Seen::read(frame);
            prop_assert_eq!(read(frame), seen, "{}", hex::encode(frame));
            // Nearer to the start than the end of what is read, and without tags, the socket's programs
            // read the same.
            let is_plain = matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]);
            if seen.is_some_and(|seen| is_plain && seen.data < 1_000) {
                prop_assert_eq!(read_ip(frame), seen, "{}", hex::encode(frame));
            }
        }
    }
}
