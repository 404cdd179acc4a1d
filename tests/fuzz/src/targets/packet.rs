//! Packets as the kernel programs parse them, beside another parser's reading.

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use totoro_ebpf::abi::{TCP, UDP, v4_mapped};
use totoro_ebpf::packet::greeting::{self, LONGEST, Mark, VALUE};
use totoro_ebpf::packet::{Family, Headers, MAX_OFFSET};

use crate::Target;

/// An Ethernet frame; the same bytes again as an IP packet, and as data of a connection. Events of
/// the programs are read here too, since they are of the same making.
pub(crate) const TARGET: Target = Target {
    name: "packet",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let ours = Headers::from_ethernet(&data);
    bounds(data, ours);
    if let Ok(theirs) = SlicedPacket::from_ethernet(data) {
        agree(data, ours, &theirs);
    }
    let ours = Headers::from_ip(&data);
    bounds(data, ours);
    if let Ok(theirs) = SlicedPacket::from_ip(data) {
        agree(data, ours, &theirs);
    }
    greets(data);
    let event = totoro_node::kernel::decode_event(data);
    assert_eq!(event.is_some(), data.len() == 104);
    if let Some(event) = event {
        let field = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("eight"));
        assert_eq!(
            (event.at_ns, event.cookie, event.lease),
            (field(0), field(8), field(16))
        );
        assert_eq!(
            (event.remote.as_slice(), event.local.as_slice()),
            (&data[48..64], &data[64..80])
        );
        assert_eq!(event.port.to_le_bytes(), data[82..84]);
    }
}

/// What is found lies in the packet.
fn bounds(data: &[u8], headers: Option<Headers>) {
    let Some(headers) = headers else { return };
    let Headers {
        network,
        transport,
        proto,
        ..
    } = headers;
    assert!(proto == TCP || proto == UDP);
    assert!(
        network + 20 <= transport && transport <= MAX_OFFSET,
        "{headers:?}"
    );
    let header = if proto == TCP { 14 } else { 4 };
    assert!(transport + header <= data.len(), "{headers:?}");
    assert!((transport..=transport + 60).contains(&headers.data));
    assert_eq!(
        data[network] >> 4,
        if headers.family == Family::V4 { 4 } else { 6 }
    );
    let port = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    assert_eq!(
        (headers.source_port, headers.destination_port),
        (port(transport), port(transport + 2))
    );
    assert!(
        headers.addresses(&data).is_some(),
        "before the ports come the addresses"
    );
    assert!(!headers.is_tcp_open() || proto == TCP);
}

/// Where both find ports, they find the same.
fn agree(data: &[u8], ours: Option<Headers>, theirs: &SlicedPacket<'_>) {
    let (proto, ports, flags) = match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = data_of(tcp.slice(), 13);
            (TCP, (tcp.source_port(), tcp.destination_port()), flags)
        }
        Some(TransportSlice::Udp(udp)) => (UDP, (udp.source_port(), udp.destination_port()), 0),
        _ => return,
    };
    let addresses = match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (v4_mapped(header.source()), v4_mapped(header.destination()))
        }
        Some(NetSlice::Ipv6(ip)) => (ip.header().source(), ip.header().destination()),
        _ => return,
    };
    let Some(ours) = ours else {
        // Not ours to judge: more tags, headers or bytes before the ports than are followed.
        assert!(is_long(data, theirs), "a plain packet must be judged");
        return;
    };
    assert_eq!(
        (
            ours.proto,
            (ours.source_port, ours.destination_port),
            ours.flags
        ),
        (proto, ports, flags)
    );
    assert_eq!(ours.addresses(&data), Some(addresses));
}

fn data_of(header: &[u8], at: usize) -> u8 {
    header.get(at).copied().unwrap_or(0)
}

/// Whether a packet has what our parser leaves to the stack.
fn is_long(data: &[u8], theirs: &SlicedPacket<'_>) -> bool {
    // 0x9100, which they take for a tag and Linux does not.
    let foreign = |at: usize| data.get(at..at + 2) == Some(&[0x91, 0]);
    let tag = |ext: &LinkExtSlice<'_>| matches!(ext, LinkExtSlice::Vlan(_));
    let tags = &theirs.link_exts;
    let tagged = tags.len() > 2 || !tags.iter().all(tag) || foreign(12) || foreign(16);
    let extended = match &theirs.net {
        Some(NetSlice::Ipv6(ip)) => ip.extensions().clone().into_iter().count() > 5,
        _ => false,
    };
    tagged || extended || data.len() > MAX_OFFSET
}

/// The request of a websocket: what is found lies in the data.
fn greets(data: &[u8]) {
    if greeting::begins(&data, 0) {
        assert!(data.starts_with(b"GET /~!frp"));
    }
    let Some(nth) = (0..LONGEST).find(|nth| greeting::mark(&data, 0, *nth) != Mark::Other) else {
        return;
    };
    if greeting::mark(&data, 0, nth) == Mark::End {
        return;
    }
    if let Some(at) = greeting::value(&data, 0, nth) {
        let value = &data[at..at + VALUE];
        assert!(
            value.iter().all(|byte| (b'!'..=b'~').contains(byte)),
            "{value:?}"
        );
        assert!(data[..at].to_ascii_lowercase().ends_with(b"\norigin: "));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    use etherparse::PacketBuilder;
    let write = |builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>| {
        let mut bytes = Vec::new();
        builder
            .write(&mut bytes, b"data")
            .expect("a packet in memory");
        bytes
    };
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (from, to) = ([192, 0, 2, 1], [198, 51, 100, 2]);
    let (from6, to6) = ([0x20; 16], [0x21; 16]);
    let v4 = write(
        ethernet()
            .ipv4(from, to, 64)
            .tcp(50_000, 20_001, 1, 1024)
            .syn(),
    );
    let v6 = write(
        ethernet()
            .ipv6(from6, to6, 64)
            .tcp(50_000, 20_001, 1, 1024)
            .ack(5),
    );
    let tagged = write(
        ethernet()
            .single_vlan(1.try_into().expect("an id"))
            .ipv4(from, to, 64)
            .tcp(1, 2, 3, 4),
    );
    let mut udp = Vec::new();
    ethernet()
        .ipv4(from, to, 64)
        .udp(50_000, 20_001)
        .write(&mut udp, b"data")
        .expect("in memory");
    // A hop-by-hop header, then an atomic fragment, before the ports.
    let mut long = v6[..54].to_vec();
    long[20] = 0;
    long[18..20].copy_from_slice(&40_u16.to_be_bytes());
    long.extend_from_slice(&[44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 1]);
    long.extend_from_slice(&v6[54..]);
    let bare = v4[14..].to_vec();
    let websocket =
        b"GET /~!frp HTTP/1.1\r\nHost: n:7000\r\nOrigin: http://node.example:7000\r\n\r\n".to_vec();
    let event = (0..104).collect();
    vec![v4, v6, tagged, udp, long, bare, websocket, event]
}
