//! What loading the programs costs the verifier, and so every start of the daemon.

use aya::EbpfLoader;
use aya::programs::Program;

use crate::support::object;

/// Instructions that the verifier walks for all programs together: a second of a slow machine. Linux 6.1 walks
/// more or less than the newest (578,000).
const MOST: u32 = 600_000;

#[test]
fn the_verifier_is_not_kept_busy() {
    let Some(object) = object("the_verifier_is_not_kept_busy") else {
        return;
    };
    let mut ebpf = EbpfLoader::new().load_file(object).expect("load");
    let mut all = 0;
    for (name, program) in ebpf.programs_mut() {
        let walked = match program {
            Program::Xdp(one) => one.load().and_then(|()| one.info()),
            Program::SchedClassifier(one) => one.load().and_then(|()| one.info()),
            Program::SkLookup(one) => one.load().and_then(|()| one.info()),
            Program::SkSkb(one) => one.load().and_then(|()| one.info()),
            Program::SockOps(one) => one.load().and_then(|()| one.info()),
            Program::CgroupSkb(one) => one.load().and_then(|()| one.info()),
            Program::CgroupSock(one) => one.load().and_then(|()| one.info()),
            Program::CgroupSockAddr(one) => one.load().and_then(|()| one.info()),
            _ => panic!("{name}: of another type"),
        };
        let walked = walked.expect("verified").verified_instruction_count();
        println!("{name}: {walked:?}");
        all += walked.unwrap_or_default();
    }
    println!("all: {all}");
    assert!(all < MOST, "{all} instructions were walked");
}
