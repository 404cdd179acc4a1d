//! What `totoro-node check` says on a machine that is not fit to be a node.

use std::any::Any;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{SkLookup, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use totoro_tests::lab::{self, Netns};
use totoro_tests::preflight;

#[test]
fn what_a_machine_lacks_is_said_with_what_to_do() {
    let Some(tools) = lab::skip("what_a_machine_lacks") else {
        return;
    };
    let others = |ns: &Netns, interface: &str| others(&tools.object, ns, interface);
    preflight::play(&others).expect("each line says it");
}

/// Somebody else's programs: ours under other names, which stand aside for want of a configuration.
fn others(object: &Path, ns: &Netns, interface: &str) -> Result<Box<dyn Any + Send>> {
    let mut bytes = std::fs::read(object).context("the object")?;
    let (ours, theirs) = (b"totoro_", b"theirs_");
    for at in 0..bytes.len() - ours.len() {
        if bytes[at..].starts_with(ours) {
            bytes[at..at + ours.len()].copy_from_slice(theirs);
        }
    }
    let mut loaded: Ebpf = EbpfLoader::new().load(&bytes)?;
    ns.run(|| {
        let lookup: &mut SkLookup = loaded
            .program_mut("theirs_admit")
            .context("a lookup")?
            .try_into()?;
        lookup.load()?;
        lookup.attach(File::open("/proc/thread-self/ns/net")?)?;
        let xdp: &mut Xdp = loaded
            .program_mut("theirs_xdp")
            .context("XDP")?
            .try_into()?;
        xdp.load()?;
        xdp.attach(interface, XdpMode::Driver)?;
        Ok(())
    })?;
    Ok(Box::new(loaded))
}
