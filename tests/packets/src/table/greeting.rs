//! The websocket's request to frps's own port.

use totoro_api::Reason;
use totoro_ebpf::abi::{self, TCP};

use super::*;
use crate::build::{Extension, flag, packet};

const LINE: &str = "GET /~!frp HTTP/1.1\r\nHost: node.example:7000\r\n";

/// The connection that the request comes on, so old and looked at so often.
fn connected(from: IpAddr, age: u64, looks: u16) -> impl Fn(&mut World, u64) {
    move |world, now| {
        let key = abi::ControlKey {
            remote: addr(from),
            remote_port: 40_000,
            pad: [0; 3],
        };
        let control = abi::Control {
            cookie: 4_097,
            looks,
            opened_ns: now.saturating_sub(age).max(1),
            ..abi::Control::default()
        };
        world.control.insert(key, control);
    }
}

/// The request.
pub(super) fn section(now: u64) -> Section {
    let says = |from: IpAddr, text: &str| {
        let to = if from.is_ipv6() { NODE6 } else { NODE4 };
        packet(from, to, TCP, FRPS).with(|p| {
            p.flags = flag::ACK | flag::PSH;
            p.payload = text.as_bytes().to_vec();
        })
    };
    let request = |headers: &str| format!("{LINE}{headers}\r\n\r\n");
    let good = request("Origin: http://node.example:7000");
    let from4 = |text: &str| says(USER4, text);
    let young = || connected(USER4, S, 0);
    let stamped = |what, packet: &Packet| frame(what, packet, now).stamped();
    const LOOKED: &[&str] = &["CONTROL 198.51.100.7 port 40000"];
    let mut rows = vec![
        stamped("frpc's request gets its connection's stamp", &from4(&good))
            .given(young())
            .changes(LOOKED),
        stamped("over IPv6", &says(USER6, &good))
            .given(connected(USER6, S, 0))
            .changes(&["CONTROL 2001:db8:1::7 port 40000"]),
        stamped(
            "with a TCP header of 32 bytes",
            &from4(&good).with(|p| p.offset = 8),
        )
        .given(young())
        .changes(LOOKED),
        stamped(
            "at an odd byte, its name in other letters",
            &from4(&request("X: y\r\nORIGIN: http://node.example:7000")),
        )
        .given(young())
        .changes(LOOKED),
        stamped(
            "a wrong checksum stays as wrong",
            &from4(&good).with(|p| p.checksum = Some(7)),
        )
        .given(young())
        .changes(LOOKED),
        frame("without an origin", &from4(&request("A: b")), now)
            .given(young())
            .changes(LOOKED),
        frame(
            "an origin of 15 characters",
            &from4(&request("Origin: http://a.b:7000")),
            now,
        )
        .given(young())
        .changes(LOOKED),
        frame(
            "an origin behind the headers is the tenant's",
            &from4(&format!(
                "{LINE}\r\nOrigin: http://node.example:7000\r\n\r\n"
            )),
            now,
        )
        .given(young())
        .changes(LOOKED),
        frame(
            "cut within the origin",
            &from4(&good).with(|p| p.cut_to = Some(120)),
            now,
        )
        .given(young())
        .changes(LOOKED),
        frame(
            "anything else that frpc says",
            &from4("GET / HTTP/1.1\r\n\r\n"),
            now,
        )
        .given(young()),
        frame(
            "to another port",
            &from4(&good).with(|p| p.ports.1 = LEASED),
            now,
        )
        .given(young()),
        frame(
            "behind extension headers",
            &says(USER6, &good).with(|p| p.extensions = vec![Extension::new(60)]),
            now,
        )
        .given(connected(USER6, S, 0)),
        frame("the ninth look at a connection is none", &from4(&good), now)
            .given(connected(USER4, S, 8)),
        frame(
            "what is forwarded is not ours to change",
            &from4(&good).with(|p| p.to = ROUTED),
            now,
        )
        .given(young()),
        frame(
            "before its connection is there: TCP sends it again",
            &from4(&good),
            now,
        )
        .refused(0, Reason::Unsupported),
    ];
    // A machine that has just started has no connection so old.
    if now > 20 * S {
        let row = frame("a connection that is ten seconds old", &from4(&good), now);
        rows.push(row.given(connected(USER4, 10 * S, 0)));
    }
    Section {
        title: "The websocket's request",
        about: "XDP and TC ingress, frps's own port ([node.md](node.md#how-frpc-may-come)).",
        rows,
    }
}
