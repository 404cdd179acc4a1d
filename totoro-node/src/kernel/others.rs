//! What other programs of this machine have in the kernel where ours are.

use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_link_type};

use super::{Context, Result, links, pins, sys};

/// Socket lookups of this network namespace beside the one pinned under `pin_root`: ids of their links
/// and programs. Looks as root.
///
/// # Errors
/// The kernel does not list its links.
pub fn other_lookups(pin_root: &Path) -> Result<Vec<(u32, u32)>> {
    let ours = pins::map_dir(pin_root).join("links").join(links::LOOKUP);
    let ours = sys::get(&ours).and_then(sys::link_info).map(|link| link.id);
    let place = links::lookup_place()?;
    let mut others = Vec::new();
    let mut after = 0;
    while let Some(id) = sys::next_link(after).on("list", "links")? {
        after = id;
        // One that is gone meanwhile is nobody's.
        let Ok(link) = sys::link_by_id(id).and_then(sys::link_info) else {
            continue;
        };
        let is_lookup = link.kind == bpf_link_type::BPF_LINK_TYPE_NETNS as u32
            && link.attach_type() == Some(bpf_attach_type::BPF_SK_LOOKUP as u32)
            && link.target() == place.target;
        if is_lookup && ours.as_ref().ok() != Some(&link.id) {
            others.push((link.id, link.program));
        }
    }
    Ok(others)
}
