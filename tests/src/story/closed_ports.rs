//! Item 7: a listener is not enough, a lease is needed; what is not Totoro's is left alone.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use totoro_api::Reason;

use super::world::{World, ms};
use crate::lab::{NODE_USER_V4, NODE_USER_V6, Place};
use crate::net::user::{self, Denied};
use crate::report::Report;

/// In the pool, without a lease.
const UNLEASED: u16 = 20_090;
/// Outside the pool: ssh's, and some UDP service's.
const OUTSIDE: (u16, u16) = (22, 5353);

/// Datagrams sent to a closed port.
const KNOCKS: u64 = 5;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check("the node says which filter guards the users' side", || {
        filter(world)
    });
    for (name, ip) in [("IPv4", NODE_USER_V4), ("IPv6", NODE_USER_V6)] {
        report.check(
            &format!("TCP over {name} to a listener on an unleased pool port"),
            || tcp(world, ip),
        );
        report.check(
            &format!("UDP over {name} to a socket on an unleased pool port"),
            || udp(world, ip),
        );
    }
    report.check("TCP 22 and UDP 5353 of the node answer as ever", || {
        outside(world)
    });
}

fn filter(world: &World) -> Result<String> {
    let node = world.node.as_ref().context("the node does not run")?;
    let log = node.log_after(0);
    let line = log
        .lines()
        .find(|line| line.contains("filtering interface=\"us0\""))
        .context("the node's log names no filter on us0")?;
    ensure!(
        line.contains("mode=\"native\""),
        "the lab asked for native XDP, and got {line}"
    );
    Ok("XDP, native, on us0".to_owned())
}

fn tcp(world: &World, ip: &str) -> Result<String> {
    let listener = listen(world, UNLEASED)?;
    let before = world.refused(Reason::NoLease)?;
    let denied = user::denied(
        world.lab.ns(Place::User),
        user::at(ip, UNLEASED)?,
        Duration::from_secs(1),
    )?;
    listener.set_nonblocking(true)?;
    ensure!(listener.accept().is_err(), "the listener got a connection");
    // An RST would come from sk_lookup, behind the shield: then the shield is not there.
    if let Denied::Refused(took) = denied {
        bail!("refused after {}, not dropped before the stack", ms(took));
    }
    let counted = world.refused(Reason::NoLease)? - before;
    ensure!(counted > 0, "no_lease did not count it");
    Ok(format!(
        "no answer in 1 s, {counted} packets counted as no_lease"
    ))
}

fn udp(world: &World, ip: &str) -> Result<String> {
    let socket = world
        .lab
        .ns(Place::Node)
        .run(|| UdpSocket::bind(("::", UNLEASED)).context("bind on the node"))?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let sender = user::datagrams(world.lab.ns(Place::User), user::at(ip, UNLEASED)?)?;
    let before = world.refused(Reason::NoLease)?;
    for _ in 0..KNOCKS {
        // An ICMP answer to an earlier one would show as an error here.
        sender
            .send(b"knock")
            .context("something behind the shield answered")?;
    }
    let mut buffer = [0; 16];
    ensure!(socket.recv(&mut buffer).is_err(), "a datagram arrived");
    if let Some(error) = sender.take_error()? {
        bail!("something behind the shield answered: {error}");
    }
    let counted = world.refused(Reason::NoLease)? - before;
    ensure!(counted >= KNOCKS, "no_lease counted {counted} of {KNOCKS}");
    Ok(format!(
        "{KNOCKS} datagrams sent, none arrived, no answer, {counted} counted as no_lease"
    ))
}

fn outside(world: &World) -> Result<String> {
    let listener = listen(world, OUTSIDE.0)?;
    let socket = world
        .lab
        .ns(Place::Node)
        .run(|| UdpSocket::bind(("::", OUTSIDE.1)).context("bind on the node"))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let server = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut word = [0; 4];
        stream.read_exact(&mut word)?;
        stream.write_all(&word)?;
        let mut buffer = [0; 16];
        let (read, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..read], from)?;
        Ok(())
    });
    let ns = world.lab.ns(Place::User);
    let mut stream = user::connect(ns, user::at(NODE_USER_V4, OUTSIDE.0)?)?;
    let tcp = user::exchange(&mut stream, b"ssh!")?;
    let udp = user::echo(ns, user::at(NODE_USER_V6, OUTSIDE.1)?, b"mdns")?;
    server.join().ok().context("the server panicked")??;
    Ok(format!("tcp {}, udp {}", ms(tcp), ms(udp)))
}

fn listen(world: &World, port: u16) -> Result<TcpListener> {
    world.lab.ns(Place::Node).run(|| {
        TcpListener::bind(("::", port)).with_context(|| format!("listen on the node's port {port}"))
    })
}
