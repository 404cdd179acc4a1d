//! `docs/reasons.md` is the table of the code, for people.

use std::fmt::Write as _;
use std::path::Path;

use totoro_api::Reason;
use totoro_api::reason::Lang;

/// The page. `TOTORO_BLESS=1 cargo test -p totoro-tests --test reasons` writes it.
fn page() -> String {
    let mut page = String::from(
        "# Reasons\n\n\
         Why something was refused: one number and one code each, the same in frpc's log, the REST\n\
         error, the audit trail, the metrics and the kernel's counters. Generated from\n\
         `totoro-control/api/src/reason.rs`; numbers and codes are never reused.\n",
    );
    let heads = [
        (Lang::En, "English", "what happened", "what to do next"),
        (Lang::Zh, "中文", "发生了什么", "下一步"),
    ];
    for (lang, name, what, next) in heads {
        write!(
            page,
            "\n## {name}\n\n| no. | code | {what} | {next} |\n|---|---|---|---|\n"
        )
        .unwrap();
        for &reason in Reason::ALL {
            let (number, what, next) = (reason.number(), reason.what(lang), reason.next(lang));
            // Only one table may own the anchor.
            let anchor = if lang == Lang::En {
                format!("<a id=\"{reason}\"></a>")
            } else {
                String::new()
            };
            writeln!(page, "| {number} | {anchor}`{reason}` | {what} | {next} |").unwrap();
        }
    }
    page
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
    if std::env::var("TOTORO_BLESS").is_ok_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/reasons.md is not what the table says: TOTORO_BLESS=1 cargo test -p totoro-tests --test reasons"
    );
}
