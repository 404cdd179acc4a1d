//! Programs of another owner: ours under other names, which stand aside for want of a configuration.

use std::fs::File;
use std::path::{Path, PathBuf};

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{CgroupSockAddr, LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use aya::{Ebpf, EbpfLoader};

/// Somebody else's programs; links live as long as their owner holds them.
pub(crate) struct Theirs(Ebpf);

impl Theirs {
    pub(crate) fn new(object: &Path) -> Theirs {
        let mut bytes = std::fs::read(object).expect("the object");
        let (ours, theirs) = (b"totoro_", b"theirs_");
        for at in 0..bytes.len() - ours.len() {
            if bytes[at..].starts_with(ours) {
                bytes[at..at + ours.len()].copy_from_slice(theirs);
            }
        }
        Theirs(EbpfLoader::new().load(&bytes).expect("load"))
    }

    /// On a cgroup's UDP sends, pinned at `pin`.
    pub(crate) fn send4(&mut self, cgroup: &Path, pin: &PathBuf) {
        let program = self.0.program_mut("theirs_send4").expect("program");
        let program: &mut CgroupSockAddr = program.try_into().expect("type");
        program.load().expect("load");
        let cgroup = File::open(cgroup).expect("cgroup");
        let id = program
            .attach(cgroup, CgroupAttachMode::Single)
            .expect("attach");
        let link = FdLink::try_from(program.take_link(id).expect("link")).expect("link");
        link.pin(pin).expect("pin");
    }

    /// In XDP, until it is dropped.
    pub(crate) fn xdp(&mut self, interface: &str) {
        let program = self.0.program_mut("theirs_xdp").expect("program");
        let program: &mut Xdp = program.try_into().expect("type");
        program.load().expect("load");
        program.attach(interface, XdpMode::Driver).expect("attach");
    }

    /// In TC, first, until it is dropped.
    pub(crate) fn tc(&mut self, interface: &str) {
        for (name, way) in [
            ("theirs_tc_in", TcAttachType::Ingress),
            ("theirs_tc_out", TcAttachType::Egress),
        ] {
            let program = self.0.program_mut(name).expect("program");
            let program: &mut SchedClassifier = program.try_into().expect("type");
            program.load().expect("load");
            let first = tc::TcAttachOptions::TcxOrder(LinkOrder::first());
            program
                .attach_with_options(interface, way, first)
                .expect("attach");
        }
    }
}
