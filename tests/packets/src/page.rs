//! `docs/packets.md`: the table for people.

use std::fmt::Write as _;

use crate::table::{self, Row};
use crate::words::entries;

/// The page's moment, long after a start.
const NOW: u64 = 1_000_000_000_000_000;

/// The page.
///
/// # Panics
/// Never: a string takes what is written.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Packets\n\n\
         What the kernel programs do with a packet. Each row is run by `BPF_PROG_TEST_RUN` in the\n\
         programs, and in a second reading of them (`tests/model`), by `cargo xtask test`: verdict, frame,\n\
         maps and events must be these. `cargo xtask soak packets` does the same with random packets in\n\
         random maps. Generated from `tests/packets/src/table/`; the maps are those of\n\
         [bpf-maps.md](bpf-maps.md), the reasons those of [reasons.md](reasons.md).\n\n\
         What is dropped counts one in `REASONS` under that reason and tenant (0 = nobody's). *changes*:\n\
         other entries that change, come (`+`) or go (`-`). *told*: an event goes into the ring. *maps*:\n\
         what is there beyond these:\n\n",
    );
    for (key, value) in entries(&table::base(NOW), NOW) {
        let value = if value.is_empty() {
            String::new()
        } else {
            format!(": {value}")
        };
        writeln!(page, "- `{key}`{value}").expect("a string");
    }
    for section in table::sections(NOW) {
        let (title, about) = (section.title, section.about);
        write!(page, "\n## {title}\n\n{about}\n\n").expect("a string");
        page.push_str(
            "| | packet | maps | verdict | changes | told |\n|---|---|---|---|---|---|\n",
        );
        for row in &section.rows {
            line(&mut page, row);
        }
    }
    page
}

fn line(page: &mut String, row: &Row) {
    let code = |all: Vec<String>| {
        let all: Vec<String> = all.iter().map(|entry| format!("`{entry}`")).collect();
        all.join("<br>")
    };
    let told = if row.is_told() { "yes" } else { "" };
    let (what, packet, verdict) = (row.what, row.packet(), row.verdict());
    let changes = row.changed_entries().iter().map(ToString::to_string);
    let (maps, changes) = (code(row.maps()), code(changes.collect()));
    writeln!(
        page,
        "| {what} | {packet} | {maps} | {verdict} | {changes} | {told} |"
    )
    .expect("a string");
}

#[cfg(test)]
mod tests {
    use super::page;
    use std::path::Path;

    #[test]
    fn the_page_is_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/packets.md");
        if std::env::var("TOTORO_BLESS").is_ok_and(|value| value == "1") {
            std::fs::write(&path, page()).expect("write");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/packets.md is not what the table says: TOTORO_BLESS=1 cargo test -p totoro-packets"
        );
    }
}
