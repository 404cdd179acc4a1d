//! At the socket: what a packet and a connection cost in cgroup_skb, sock_ops and sk_lookup. A test run
//! has no socket that is a lease's, so this is real TCP on loopback, and the kernel's own account of each
//! program's time and runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program, SkLookup, SockOps};
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader};
use totoro_report::{Better, Figure, Run};

use crate::{Args, Progress, node};

/// Ports of the server under empty programs: in nobody's pool.
const PLAIN: u16 = 10_000;
/// Leased ports that are served, and how far apart they are.
const SERVED: u32 = 250;
const APART: u32 = 160;
/// Messages of each connection, and connections, in a round.
const MESSAGES: usize = 20_000;
const CONNECTIONS: usize = 500;

/// The programs in the order of the figures: Totoro's links, those that do nothing, and what is counted.
const PROGRAMS: [(&str, &str, Per); 4] = [
    ("totoro_meter_in", "nothing_in", Per::Packet),
    ("totoro_meter_out", "nothing_out", Per::Packet),
    ("totoro_conns", "nothing_ops", Per::Connection),
    ("totoro_admit", "nothing_lookup", Per::Connection),
];
const NOTHING: &str = "empty programs";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Per {
    Packet,
    Connection,
}

/// Serves ports until its input ends; how this program starts itself. It begins when told, so that its
/// sockets are made in the cgroup that it was put into.
pub(crate) fn serve(ports: &[u16]) {
    let mut word = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut word)
        .expect("a word");
    for port in ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("bind");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
    }
    println!("ready");
    std::io::stdin().lock().read_line(&mut word).ok();
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 256];
    stream.set_nodelay(true).ok();
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// A server in a cgroup of its own; ended when dropped.
struct Server(Child);

impl Server {
    fn start(cgroup: &Path, ports: &[u16]) -> Server {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--serve", &ports.join(",")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the server");
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).expect("its cgroup");
        child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(b"go\n")
            .expect("tell it");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("its answer");
        assert_eq!(line, "ready\n");
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

/// The programs that do nothing, attached.
fn attach_nothing(ebpf: &mut Ebpf, cgroup: &Path) {
    let cgroup = std::fs::File::open(cgroup).expect("the cgroup");
    let netns = std::fs::File::open("/proc/thread-self/ns/net").expect("the namespace");
    let mode = CgroupAttachMode::Single;
    for (_, name, _) in PROGRAMS {
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

/// Which programs count, and where the users go.
struct Side<'a> {
    ids: [u32; PROGRAMS.len()],
    ports: &'a [u16],
}

impl Side<'_> {
    /// One round: ns per packet or connection of each program.
    fn round(&self) -> [f64; PROGRAMS.len()] {
        let accounts = || self.ids.map(account);
        let mut streams: Vec<TcpStream> = self.ports.iter().map(|port| open(*port)).collect();
        let first = accounts();
        talk(&mut streams);
        let second = accounts();
        drop(streams);
        std::thread::sleep(Duration::from_millis(50));
        let third = accounts();
        come_and_go(self.ports);
        std::thread::sleep(Duration::from_millis(50));
        let fourth = accounts();
        std::array::from_fn(|nth| match PROGRAMS[nth].2 {
            Per::Packet => {
                let runs = second[nth].1 - first[nth].1;
                assert!(
                    runs >= MESSAGES as u64,
                    "every message passes {}",
                    PROGRAMS[nth].0
                );
                (second[nth].0 - first[nth].0).as_nanos() as f64 / runs as f64
            }
            Per::Connection => {
                let time = fourth[nth].0 - third[nth].0;
                assert!(fourth[nth].1 - third[nth].1 >= CONNECTIONS as u64);
                time.as_nanos() as f64 / CONNECTIONS as f64
            }
        })
    }
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
         the namespace's. Per round and server {MESSAGES} messages of 100 bytes to and fro, and \
         {CONNECTIONS} connections that say one and end. Times are the kernel's (BPF_ENABLE_STATS), and \
         have its two readings of the clock in them, with empty programs too. sock_ops: all runs of a \
         connection together."
    ));
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
    let plain: Vec<u16> = (0..SERVED as u16).map(|nth| PLAIN + nth).collect();
    let servers = [
        Server::start(&cgroups[0], &served),
        Server::start(&cgroups[1], &plain),
    ];
    let ours = PROGRAMS.map(|(link, ..)| node::attached(pins, link).id());
    let theirs = PROGRAMS.map(|(_, name, _)| id_of(&nothing, name));
    let stats = enable_stats(Stats::RunTime).expect("the kernel's account");
    let mut before = 0;
    for (leases, ports) in [(1, 1), (node::FULL, SERVED as usize)] {
        node::lend(&kernel, before..leases);
        before = leases;
        let sides = [
            Side {
                ids: ours,
                ports: &served[..ports],
            },
            Side {
                ids: theirs,
                ports: &plain[..ports],
            },
        ];
        figures(args, leases, &sides, run);
        progress.says(&format!("sockets: {leases} leases"));
    }
    drop((stats, servers));
    node::unload(kernel, pins);
    drop(nothing);
    let start = Instant::now();
    for cgroup in &cgroups {
        while std::fs::remove_dir(cgroup).is_err() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn figures(args: &Args, leases: u32, sides: &[Side; 2], run: &mut Run) {
    let mut samples: [[Vec<f64>; PROGRAMS.len()]; 2] = Default::default();
    for round in 0..=args.rounds {
        for nth in 0..2 {
            let nth = (nth + round) % 2;
            let took = sides[nth].round();
            // The first round warms up.
            if round > 0 {
                for (samples, took) in samples[nth].iter_mut().zip(took) {
                    samples.push(took);
                }
            }
        }
    }
    let [ours, theirs] = samples;
    for (((name, _, per), ours), theirs) in PROGRAMS.into_iter().zip(ours).zip(theirs) {
        let per = match per {
            Per::Packet => "packet",
            Per::Connection => "connection",
        };
        let name = format!("{name}, per {per}, {leases} leases");
        let figure = Figure::new("At the socket", &name, "ns", Better::Less, ours);
        run.add(figure.against(NOTHING, &theirs, None));
    }
}
