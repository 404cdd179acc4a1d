//! One build follows another, of the same ABI or the next, while users are on and a flood of SYNs
//! knocks at ports that nobody leased: nothing gets through, nothing is lost.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use totoro_api::Reason;
use totoro_ebpf::abi::{CUT, TCP, Tenant};
use totoro_node::kernel::{Abi, Kernel, KernelOptions, Older, XdpMode};

use crate::flood::{Flood, NOTHING, Tap, Through, dropped};
use crate::interfaces::connects;
use crate::sockets::{PORT, five, listen};
use crate::support::{self, Node, Peer, eventually};
use crate::wire::{NODE4, link_up};

/// How often the programs are replaced: by the next build's, and by the next ABI's, in turn.
const ROUNDS: u32 = 6;

/// Whose programs run: the ids of all links with those of their programs, by name.
pub(crate) fn running(options: &KernelOptions) -> Vec<(String, u32, u32)> {
    let dir = options
        .pin_root
        .join(format!("v{}", options.abi.version))
        .join("links");
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .expect("links")
        .map(|entry| {
            let path = entry.expect("entry").path();
            let link: FdLink = PinnedLink::from_pin(&path).expect("pinned link").into();
            let info = link.info().expect("info");
            let name = path.file_name().expect("name").to_string_lossy();
            (name.into_owned(), info.id(), info.program_id())
        })
        .collect();
    all.sort();
    all
}

/// The ABI version after `abi`, which takes that over.
fn next(abi: Abi) -> Abi {
    let before = Older {
        version: abi.version,
        added: &[],
        changed: &[],
    };
    Abi {
        version: abi.version + 1,
        older: Box::leak(Box::new([before])),
    }
}

/// A user's connection through the leased port, and the service's end of it.
struct Held(TcpStream, TcpStream);

impl Held {
    fn new(peer: &Peer, listener: &TcpListener) -> Held {
        let user = peer.run(|| TcpStream::connect(SocketAddr::new(NODE4, PORT)).expect("connect"));
        let service = listener.accept().expect("accept").0;
        for end in [&user, &service] {
            let patience = Some(Duration::from_millis(500));
            end.set_read_timeout(patience).expect("timeout");
        }
        Held(user, service)
    }

    /// Whether bytes pass both ways.
    fn lives(&mut self) -> bool {
        let Held(user, service) = self;
        let mut byte = [0];
        user.write_all(b"?").is_ok()
            && service.read_exact(&mut byte).is_ok()
            && service.write_all(b"!").is_ok()
            && user.read_exact(&mut byte).is_ok()
    }
}

fn refused(kernel: &Kernel) -> u64 {
    let all = kernel.refused().expect("counters");
    let mut closed = all.iter().filter(|one| one.reason == Reason::NoLease);
    closed.next().map_or(0, |one| one.count)
}

/// Another build's programs of the same ABI, where one is told (`cargo xtask soak upgrade`): they and this build's
/// take turns.
const OTHER: &str = "TOTORO_OTHER_OBJECT";

/// Replaces the programs [`ROUNDS`] times; what came through.
fn replace(name: &str, mode: Option<XdpMode>) -> Option<Through> {
    let node = Node::new(name)?;
    let node = match mode {
        Some(mode) => node.on(&["us0"], mode),
        None => node,
    };
    let mut options = node.options();
    let own = options.object.clone();
    let other = std::env::var_os(OTHER).map_or_else(|| own.clone(), PathBuf::from);
    let mut through = None;
    node.run_after(link_up, |kernel, peer| {
        let listener = listen(PORT);
        // Whatever came through would be accepted.
        let _closed: Vec<_> = (PORT + 1..PORT + 10)
            .map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("listen"))
            .collect();
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let mut held = Held::new(&peer, &listener);
        assert!(held.lives());

        let (before, lost) = (refused(&kernel), dropped(&peer));
        let tap = Tap::start();
        let flood = Flood::start(&peer);
        let mut kernel = kernel;
        for round in 0..ROUNDS {
            let (links, counted) = (running(&options), refused(&kernel));
            let conns = kernel.counts(1).expect("counts").usage;
            let bytes = kernel.lease_counts(1, key).expect("counts").bytes_in;
            drop(kernel);
            // Back to an earlier commit's, on from them, and into the next ABI.
            match round % 3 {
                0 => options.object = other.clone(),
                1 => options.object = own.clone(),
                _ => options.abi = next(options.abi),
            }
            kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{}", error.whole()));
            let now = running(&options);
            assert_eq!(now.len(), links.len(), "{now:?}");
            for ((name, link, old), (same, id, new)) in links.iter().zip(&now) {
                assert_eq!((name, link), (same, id), "the link stays");
                assert_ne!(old, new, "{name}: another program");
            }
            let usage = kernel.counts(1).expect("counts").usage;
            assert_eq!((usage.conns, usage.admitted), (conns.conns, conns.admitted));
            assert!(held.lives(), "round {round}: what lives goes on");
            eventually("it is counted on", || {
                refused(&kernel) > counted
                    && kernel.lease_counts(1, key).expect("counts").bytes_in > bytes
            });
            // Users come and go meanwhile, and are counted by old and new programs alike.
            let mut more = Held::new(&peer, &listener);
            assert!(more.lives());
            drop(more);
            eventually("it is counted out", || {
                kernel.counts(1).is_ok_and(|counts| counts.usage.conns == 1)
            });
        }
        let sent = flood.stop();
        let (others, seen) = (tap.others(), tap.stop());
        let (counted, lost) = (refused(&kernel) - before, dropped(&peer) - lost);
        println!(
            "{name}: {ROUNDS} times replaced under {sent} SYNs ({lost} lost on the wire), \
             {counted} refused; behind the shield {seen:?}"
        );
        assert!(others > 0, "the tap saw the users");
        assert!(sent > 10_000, "a flood");
        assert!(
            counted * 1000 >= (sent - lost) * 999,
            "each was judged: {counted} of {}",
            sent - lost
        );

        // The socket's tag is the old one, and still its owner's: cut with its tenant.
        let cut = Tenant {
            state: CUT,
            reason: Reason::InviteRevoked.number(),
            ..five()
        };
        kernel.put_tenant(1, &cut).expect("tenant");
        assert!(!held.lives(), "the socket's storage was carried over");
        assert!(connects(&peer, SocketAddr::new(NODE4, PORT + 1)).is_err());
        through = Some(seen);
    });
    through
}

#[test]
fn programs_behind_xdp_are_replaced_without_a_gap() {
    if let Some(through) = replace("swap-xdp", Some(XdpMode::Native)) {
        assert_eq!(through, NOTHING);
    }
}

#[test]
fn programs_in_tc_are_replaced_without_a_gap() {
    if let Some(through) = replace("swap-tc", Some(XdpMode::Off)) {
        assert!(
            through.syns > 0,
            "TC is behind the tap: it can see the flood"
        );
        // Without TCX the filter is removed and added again; in between the lookup guards alone.
        assert!(through.resets == 0 || !support::has_tcx(), "{through:?}");
        assert_eq!(through.accepts, 0);
    }
}

/// Without a filter before the stack the lookup refuses every SYN, and none is accepted.
#[test]
fn the_socket_lookup_alone_has_no_gap() {
    if let Some(through) = replace("swap-lookup", None) {
        assert!(through.syns > 0 && through.resets > 0, "{through:?}");
        assert_eq!(through.accepts, 0);
    }
}
