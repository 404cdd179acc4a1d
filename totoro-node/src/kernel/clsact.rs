//! TC before TCX (Linux 6.6): filters of the clsact qdisc. They stay when the daemon ends, but they are no
//! links: they can't be pinned, and are replaced by removing them and adding them again. In between the
//! socket lookup guards alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::util::KernelVersion;

use super::links::program;
use super::pins::{PinDir, pin_name};
use super::{Context, Result, Uninstalled};

/// Both ways, and what filters each.
const WAYS: [(TcAttachType, &str, &str); 2] = [
    (TcAttachType::Ingress, "ingress", "totoro_tc_in"),
    (TcAttachType::Egress, "egress", "totoro_tc_out"),
];

/// Whether the kernel has TCX.
pub(super) fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Attaches a program to an interface.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    name: &str,
    interface: &str,
    way: TcAttachType,
) -> Result<()> {
    add_qdisc(pins, interface)?;
    let _ = tc::qdisc_detach_program(interface, way, name);
    let program: &mut SchedClassifier = program(ebpf, name)?.try_into().on("use", name)?;
    if program.fd().is_err() {
        program.load().on("load", name)?;
    }
    let id = program
        .attach(interface, way)
        .on("attach", format!("{name} to {interface}"))?;
    std::mem::forget(program.take_link(id).on("attach", name)?);
    Ok(())
}

/// Adds the qdisc, where there is none; whether there was none.
pub(super) fn add_qdisc(pins: &PinDir, interface: &str) -> Result<bool> {
    // There already, an operator's perhaps: then it is used, and never removed.
    if tc::qdisc_add_clsact(interface).is_err() {
        return Ok(false);
    }
    if let Some(root) = pins.dir.parent() {
        // A directory is all that a BPF file system has for a note; it ends with the boot, as the
        // qdisc does.
        let note = root.join(pin_name("clsact", interface));
        fs::create_dir_all(&note).on("note", note.display().to_string())?;
    }
    Ok(true)
}

/// Removes our filters from every interface, and the qdiscs that we added and nobody else uses, and
/// adds to `removed` what was removed or left.
pub(super) fn remove(pin_root: &Path, removed: &mut Uninstalled) {
    if has_tcx() {
        return;
    }
    for interface in nix::net::if_::if_nameindex()
        .iter()
        .flat_map(|all| all.iter())
    {
        let Ok(name) = interface.name().to_str() else {
            continue;
        };
        for (way, _, program) in WAYS {
            if tc::qdisc_detach_program(name, way, program).is_ok() {
                removed.filters.push(format!("{program} on {name}"));
            }
        }
        if fs::remove_dir(pin_root.join(pin_name("clsact", name))).is_ok() {
            let to = match is_unused(name) && tc(&["qdisc", "del", "dev", name, "clsact"]).is_some()
            {
                true => &mut removed.qdiscs,
                false => &mut removed.used_qdiscs,
            };
            to.push(name.to_owned());
        }
    }
    // Notes of interfaces that are gone, and their qdiscs with them.
    for left in fs::read_dir(pin_root).into_iter().flatten().flatten() {
        if left.file_name().to_string_lossy().starts_with("clsact-") {
            let _ = fs::remove_dir(left.path());
        }
    }
}

/// Whether no filter is left on an interface's clsact.
fn is_unused(interface: &str) -> bool {
    WAYS.iter().all(|(_, way, _)| {
        tc(&["filter", "show", "dev", interface, way]).is_some_and(|shown| shown.trim().is_empty())
    })
}

/// What iproute2's tc prints; `None` when it fails.
fn tc(args: &[&str]) -> Option<String> {
    let output = Command::new("tc").args(args).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said)
}
