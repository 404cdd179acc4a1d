//! At the socket: what a packet, a connection and a datagram cost in cgroup_skb, sock_ops, sk_lookup and
//! sendmsg. A test run has no socket that is a lease's, so these are real TCP and UDP on loopback, and the
//! kernel's own account of each program's time and runs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program, SkLookup, SockOps};
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader};
use totoro_report::{Better, Figure, Run};

use crate::server::Server;
use crate::{Args, Progress, node};

/// Ports of the server under empty programs: in nobody's pool.
const PLAIN: u16 = 10_000;
/// Users' ports: in nobody's pool either.
const USERS: &str = "1024 9999";
/// Leased ports of each protocol that are served, and how far apart they are.
const SERVED: u32 = 250;
const APART: u32 = 160;
const UDP_APART: u32 = 100;
/// Messages of all connections together, connections, and datagrams of all flows together, in a round.
const MESSAGES: usize = 20_000;
const CONNECTIONS: usize = 500;
const DATAGRAMS: usize = 20_000;

/// The programs: Totoro's links, and those that do nothing.
const PROGRAMS: [(&str, &str); 5] = [
    ("totoro_meter_in", "nothing_in"),
    ("totoro_meter_out", "nothing_out"),
    ("totoro_conns", "nothing_ops"),
    ("totoro_admit", "nothing_lookup"),
    ("totoro_send4", "nothing_send"),
];
/// What is told of them, in the order of the figures.
const TCP: [(usize, Per); 4] = [
    (0, Per::Packet),
    (1, Per::Packet),
    (2, Per::Connection),
    (3, Per::Connection),
];
const UDP: [(usize, Per); 4] = [
    (0, Per::Datagram),
    (1, Per::Datagram),
    (3, Per::Datagram),
    (4, Per::Datagram),
];
const NOTHING: &str = "empty programs";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Per {
    /// Of a TCP connection that is there.
    Packet,
    Connection,
    /// Of a UDP flow that is there.
    Datagram,
}

/// The programs that do nothing, attached.
fn attach_nothing(ebpf: &mut Ebpf, cgroup: &Path) {
    let cgroup = std::fs::File::open(cgroup).expect("the cgroup");
    let netns = std::fs::File::open("/proc/thread-self/ns/net").expect("the namespace");
    let mode = CgroupAttachMode::Single;
    for (_, name) in PROGRAMS {
        let program = ebpf.program_mut(name).expect("the program");
        match program {
            Program::CgroupSkb(program) => {
                program.load().expect("load");
                let at = match name {
                    "nothing_in" => CgroupSkbAttachType::Ingress,
                    _ => CgroupSkbAttachType::Egress,
                };
                program.attach(&cgroup, at, mode).expect("attach");
            }
            Program::SockOps(program) => {
                let program: &mut SockOps = program;
                program.load().expect("load");
                program.attach(&cgroup, mode).expect("attach");
            }
            Program::CgroupSockAddr(program) => {
                program.load().expect("load");
                program.attach(&cgroup, mode).expect("attach");
            }
            Program::SkLookup(program) => {
                let program: &mut SkLookup = program;
                program.load().expect("load");
                program.attach(&netns).expect("attach");
            }
            _ => unreachable!("of these kinds"),
        }
    }
}

fn id_of(ebpf: &Ebpf, name: &str) -> u32 {
    let info = match ebpf.program(name).expect("the program") {
        Program::CgroupSkb(program) => {
            let program: &CgroupSkb = program;
            program.info()
        }
        Program::SockOps(program) => program.info(),
        Program::SkLookup(program) => program.info(),
        Program::CgroupSockAddr(program) => program.info(),
        _ => unreachable!("of these kinds"),
    };
    info.expect("info").id()
}

/// A program's time and runs so far.
fn account(id: u32) -> (Duration, u64) {
    let info = node::by_id(id);
    (info.run_time(), info.run_count())
}

/// Sends messages to and fro on all connections in turn, and waits for each answer.
fn talk(streams: &mut [TcpStream]) {
    let mut buffer = [7; 100];
    for nth in 0..MESSAGES {
        let count = streams.len();
        let stream = &mut streams[nth % count];
        stream.write_all(&buffer).expect("send");
        stream.read_exact(&mut buffer).expect("receive");
    }
}

fn open(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// Opens and ends connections: one message each, then the user's end, and the server's.
fn come_and_go(ports: &[u16]) {
    let mut buffer = [7; 100];
    for nth in 0..CONNECTIONS {
        let mut stream = open(ports[nth % ports.len()]);
        stream.write_all(&buffer).expect("send");
        stream.read_exact(&mut buffer).expect("receive");
        stream.shutdown(std::net::Shutdown::Write).expect("end");
        assert_eq!(stream.read(&mut buffer).expect("its end"), 0);
    }
}

/// UDP users, each with a flow that has been answered and has written again: it is there, and counts.
fn flows(ports: &[u16]) -> Vec<UdpSocket> {
    let users = ports.iter().map(|port| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket
            .connect((Ipv4Addr::LOCALHOST, *port))
            .expect("connect");
        let patience = Some(Duration::from_secs(5));
        socket.set_read_timeout(patience).expect("an option");
        socket
    });
    let users: Vec<UdpSocket> = users.collect();
    ask(&users, 2 * users.len());
    users
}

/// Sends datagrams on all flows in turn, and waits for each answer.
fn ask(users: &[UdpSocket], count: usize) {
    let mut buffer = [7; 100];
    for nth in 0..count {
        let user = &users[nth % users.len()];
        user.send(&buffer).expect("send");
        assert_eq!(user.recv(&mut buffer).expect("an answer"), buffer.len());
    }
}

/// Time and runs so far of each program.
type Accounts = [(Duration, u64); PROGRAMS.len()];

/// Which programs count, and where the users go.
struct Side<'a> {
    ids: [u32; PROGRAMS.len()],
    tcp: &'a [u16],
    udp: &'a [u16],
}

impl Side<'_> {
    fn accounts(&self) -> Accounts {
        self.ids.map(account)
    }

    /// One round of TCP: ns per packet or connection of each program.
    fn talked(&self) -> [f64; TCP.len()] {
        let mut streams: Vec<TcpStream> = self.tcp.iter().map(|port| open(*port)).collect();
        let first = self.accounts();
        talk(&mut streams);
        let second = self.accounts();
        drop(streams);
        std::thread::sleep(Duration::from_millis(50));
        let third = self.accounts();
        come_and_go(self.tcp);
        std::thread::sleep(Duration::from_millis(50));
        let fourth = self.accounts();
        TCP.map(|(nth, per)| match per {
            Per::Packet => {
                let (time, runs) = spent(nth, first, second, MESSAGES);
                time / runs
            }
            // One run each, or some: all of them together.
            _ => spent(nth, third, fourth, CONNECTIONS).0 / CONNECTIONS as f64,
        })
    }

    /// One round of UDP: ns per datagram.
    fn asked(&self, users: &[UdpSocket]) -> [f64; UDP.len()] {
        let before = self.accounts();
        ask(users, DATAGRAMS);
        let after = self.accounts();
        UDP.map(|(nth, _)| spent(nth, before, after, DATAGRAMS).0 / DATAGRAMS as f64)
    }
}

/// ns and runs of a program between two accounts; so many runs there must have been at least.
fn spent(nth: usize, before: Accounts, after: Accounts, least: usize) -> (f64, f64) {
    let runs = after[nth].1 - before[nth].1;
    let name = PROGRAMS[nth].0;
    assert!(runs >= least as u64, "{name}: {runs} runs of {least}");
    let time = after[nth].0 - before[nth].0;
    (time.as_nanos() as f64, runs as f64)
}

/// Measures, and adds the figures.
pub(crate) fn measure(args: &Args, pins: &Path, cgroup: &Path, run: &mut Run, progress: &Progress) {
    run.baseline(
        NOTHING,
        "let all pass; aya-ebpf 0.2, the same compiler; attached to a cgroup of their own",
    );
    run.note(format!(
        "At the socket: two servers, one in a cgroup with Totoro's programs as the daemon attaches them, \
         one in a cgroup with empty programs, in turns; users on loopback. sk_lookup programs are both \
         the namespace's. Per round and server {MESSAGES} messages of 100 bytes to and fro, \
         {CONNECTIONS} connections that say one and end, and {DATAGRAMS} datagrams of 100 bytes, each \
         answered, of UDP flows that are there (the socket lookup is asked for each that comes in, \
         sendmsg for each that goes out). Times are the kernel's (BPF_ENABLE_STATS), and have its two \
         readings of the clock in them, with empty programs too. sock_ops: all runs of a connection \
         together."
    ));
    // Of this run's own namespace: no user is to have a port that a server is about to have.
    let ports = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write(ports, USERS).expect("users' ports");
    let cgroups: [PathBuf; 2] = ["ours", "nothing"].map(|name| cgroup.join(name));
    for cgroup in &cgroups {
        std::fs::create_dir(cgroup).expect("a cgroup");
    }
    let mut nothing = EbpfLoader::new()
        .load_file(args.baseline())
        .expect("the baselines");
    attach_nothing(&mut nothing, &cgroups[1]);
    let mut kernel = node::load(&node::options(args.object(), pins, &cgroups[0]));
    // Who does not read what is told has a full ring, and costs less.
    let mut events = kernel.start_events().expect("events");
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let served: Vec<u16> = (0..SERVED)
        .map(|nth| node::port(nth * APART).port)
        .collect();
    let first_udp = node::FIRST_UDP;
    let served_udp: Vec<u16> = (0..SERVED)
        .map(|nth| node::port(first_udp + nth * UDP_APART).port)
        .collect();
    let plain: Vec<u16> = (0..SERVED as u16).map(|nth| PLAIN + nth).collect();
    let ours = PROGRAMS.map(|(link, _)| node::attached(pins, link).id());
    let theirs = PROGRAMS.map(|(_, name)| id_of(&nothing, name));
    let stats = enable_stats(Stats::RunTime).expect("the kernel's account");
    // One lease is one of each protocol.
    let one = [0..1, first_udp..first_udp + 1];
    let all = [1..first_udp, first_udp + 1..node::FULL];
    for (leases, more, ports) in [(1, one, 1), (node::FULL, all, SERVED as usize)] {
        for more in more {
            node::lend(&kernel, more, node::TENANTS);
        }
        // After the leases, as frps binds.
        let servers = [
            Server::start(&cgroups[0], &served[..ports], &served_udp[..ports]),
            Server::start(&cgroups[1], &plain[..ports], &plain[..ports]),
        ];
        let sides = [
            Side {
                ids: ours,
                tcp: &served[..ports],
                udp: &served_udp[..ports],
            },
            Side {
                ids: theirs,
                tcp: &plain[..ports],
                udp: &plain[..ports],
            },
        ];
        figures(args, leases, TCP, run, |side| sides[side].talked());
        // Not before: what looks for idle flows, in the daemon's place, does it within a connection's lookup.
        let users = [0, 1].map(|side| flows(sides[side].udp));
        figures(args, leases, UDP, run, |side| {
            sides[side].asked(&users[side])
        });
        drop(servers);
        progress.says(&format!("sockets: {leases} leases"));
    }
    drop(stats);
    node::unload(kernel, pins);
    drop(nothing);
    let start = Instant::now();
    for cgroup in &cgroups {
        while std::fs::remove_dir(cgroup).is_err() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Has both sides play in turns, and adds a figure for each program that is told of.
fn figures<const COUNT: usize>(
    args: &Args,
    leases: u32,
    told: [(usize, Per); COUNT],
    run: &mut Run,
    round_of: impl Fn(usize) -> [f64; COUNT],
) {
    let mut samples = [0, 1].map(|_| vec![Vec::new(); COUNT]);
    for round in 0..=args.rounds {
        for nth in 0..2 {
            let nth = (nth + round) % 2;
            let took = round_of(nth);
            // The first round warms up.
            if round > 0 {
                for (samples, took) in samples[nth].iter_mut().zip(took) {
                    samples.push(took);
                }
            }
        }
    }
    let [ours, theirs] = samples;
    for (((nth, per), ours), theirs) in told.into_iter().zip(ours).zip(theirs) {
        let name = PROGRAMS[nth].0;
        let per = match per {
            Per::Packet => "packet",
            Per::Connection => "connection",
            Per::Datagram => "datagram",
        };
        let name = format!("{name}, per {per}, {leases} leases");
        let figure = Figure::new("At the socket", &name, "ns", Better::Less, ours);
        run.add(figure.against_empty(NOTHING, &theirs, None));
    }
}
