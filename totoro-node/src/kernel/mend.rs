//! Where the maps and the kernel's sockets differ: a close that was not heard of, a socket that is
//! older than the programs. The kernel's list of sockets is right.

use std::collections::HashSet;

use aya::Ebpf;
use aya::programs::ProgramFd;
use totoro_ebpf::abi;
use totoro_ebpf::logic::pool;

use super::maps::Maps;
use super::sweep::First;
use super::tables::Tables;
use super::{Context, Kernel, Result, dump, links, sys};

/// The program that takes charges back.
const PROGRAM: &str = "totoro_mend";

/// A handle of its own of it: it is run with the desk's lock held, and whoever looks after the links may wait
/// for the kernel.
pub(super) struct Mender(ProgramFd);

impl Mender {
    /// Of a loaded object.
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Mender> {
        links::handle(ebpf, PROGRAM).map(Mender)
    }
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Connections that had ended unheard; their charges were taken back.
    pub mended: usize,
    /// Connections that nothing counted (older than the programs); destroyed.
    pub untracked: usize,
}

/// Entries that the last comparison found no socket for. Only who is missing twice is gone: a
/// listing of a changing table may miss one.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    conns: HashSet<u64>,
    control: HashSet<(abi::ControlKey, u64)>,
}

impl Kernel {
    /// Compares the kernel's sockets on guarded ports with `CONNS` and `CONTROL`. What is entered
    /// and had no socket last time either is taken back; a socket that is not entered is destroyed,
    /// so that whoever it was comes again and is counted (frpc logs in again).
    ///
    /// # Errors
    /// When the sockets can't be listed, or a map can't be read.
    pub fn compare_sockets(&self) -> Result<Compared> {
        let (conns, control) = entered(&self.shared.tables)?;
        let known = cookies(&conns, &control);
        let listed = dump::sockets()?;
        let live: HashSet<u64> = listed.connections.iter().map(|one| one.cookie).collect();
        let mut first = First(None);
        let mended = self.mend_missing(
            Suspects {
                conns: conns.into_iter().filter(|it| !live.contains(it)).collect(),
                control: control
                    .into_iter()
                    .filter(|(_, cookie)| !live.contains(cookie))
                    .collect(),
            },
            &mut first,
        );
        // A connection from a pool-numbered port to elsewhere has no listener, and is the node's own
        // affair. A user's whose listener is gone looks the same: the listing has no direction, and whose
        // a socket is can't be told without more privileges. It ends with frpc's connection that carries it,
        // which is as old.
        let mut strangers = listed.connections;
        strangers.retain(|one| {
            listed.listening.contains(&one.local.port()) && !known.contains(&one.cookie)
        });
        // Read again: what was established while we listed is entered by now.
        if !strangers.is_empty() {
            let (conns, control) = entered(&self.shared.tables)?;
            let known = cookies(&conns, &control);
            strangers.retain(|one| !known.contains(&one.cookie));
        }
        let mut untracked = 0;
        for one in strangers {
            if !is_guarded(&self.shared.maps(), one.local.port())? {
                continue;
            }
            let destroyed =
                self.shared
                    .destroyer()
                    .destroy(one.local, one.remote, one.interface, one.cookie);
            untracked += usize::from(first.of(destroyed));
        }
        if mended > 0 || untracked > 0 {
            tracing::warn!(mended, untracked, "counts and sockets differed: mended");
        }
        let compared = Compared { mended, untracked };
        first.0.map_or(Ok(compared), Err)
    }

    fn mend_missing(&self, missing: Suspects, first: &mut First) -> usize {
        let mut suspects = self.suspects();
        let mut mended = 0;
        for cookie in missing.conns.intersection(&suspects.conns) {
            mended += usize::from(first.of(self.mend_conn(*cookie)));
        }
        for (control, cookie) in missing.control.intersection(&suspects.control) {
            let order = abi::Mend {
                kind: abi::MEND_CONTROL,
                cookie: *cookie,
                control: *control,
                ..abi::Mend::default()
            };
            mended += usize::from(first.of(self.mend(&order)));
        }
        *suspects = missing;
        mended
    }

    /// Takes back the charges of a user connection that has ended; false when they were already.
    pub(super) fn mend_conn(&self, cookie: u64) -> Result<bool> {
        self.mend(&abi::Mend {
            kind: abi::MEND_CONN,
            cookie,
            ..abi::Mend::default()
        })
    }

    /// Runs `totoro_mend`; whether it had something to do.
    pub(super) fn mend(&self, order: &abi::Mend) -> Result<bool> {
        Ok(self.run(order)? != abi::MEND_NOTHING)
    }

    /// Runs `totoro_mend`; its answer.
    pub(super) fn run(&self, order: &abi::Mend) -> Result<u32> {
        let mut packet = [0u8; abi::MEND_OFFSET + size_of::<abi::Mend>()];
        #[expect(unsafe_code, reason = "writing a Pod as bytes")]
        // SAFETY: as many bytes as the type has, written unaligned; it is integers only.
        unsafe {
            let at = packet.as_mut_ptr().add(abi::MEND_OFFSET);
            std::ptr::write_unaligned(at.cast::<abi::Mend>(), *order);
        }
        sys::run(&self.mender.0, &mut packet).on("run", PROGRAM)
    }
}

type Entered = (Vec<u64>, Vec<(abi::ControlKey, u64)>);

/// Cookies of user connections, and the connections to frps's own port with theirs.
fn entered(tables: &Tables) -> Result<Entered> {
    let (mut conns, mut control) = (Vec::new(), Vec::new());
    tables.conns.each(|cookie, _| conns.push(cookie))?;
    tables
        .control
        .each(|key, one| control.push((key, one[0].cookie)))?;
    Ok((conns, control))
}

fn cookies(conns: &[u64], control: &[(abi::ControlKey, u64)]) -> HashSet<u64> {
    let control = control.iter().map(|(_, cookie)| *cookie);
    conns.iter().copied().chain(control).collect()
}

fn is_guarded(maps: &Maps, port: u16) -> Result<bool> {
    let (word, mask) = pool::bit(abi::TCP, port);
    Ok(maps.pool.get(&word, 0).on("read", "POOL")? & mask != 0)
}
