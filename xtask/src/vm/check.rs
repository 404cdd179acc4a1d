//! `totoro-node check` in the machine: what an older kernel lacks is said in plain words, never by its
//! verifier.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The machine's second serial port. The kernel writes to the first one whenever it likes, also amid JSON.
const PORT: &str = "/dev/ttyS1";
/// What ends the output of each of both, and is followed by the exit code.
const ENDED: &str = "check-ended ";
/// The interface that is asked about: made for it, and removed again.
const INTERFACE: &str = "pre0";
/// What a verifier's log has in it.
const VERIFIER: [&str; 6] = [
    "R1=",
    "R1_w=",
    "R10=fp0",
    "processed ",
    " insns",
    "verifier",
];

/// What the machine's init does for it.
pub(super) fn script() -> String {
    let check = format!(
        "TOTORO_NODE_INTERFACES={INTERFACE} TOTORO_NODE_OBJECT=/totoro-ebpf.o totoro-node check"
    );
    format!(
        "ip link add {INTERFACE} type veth peer name pre1\n\
         ( {check} 2>&1; echo \"{ENDED}$?\"; {check} --json; echo \"{ENDED}$?\" ) > {PORT}\n\
         ip link del {INTERFACE}\n"
    )
}

/// Judges what came through the port on the kernel of this version; what it was, in short.
pub(super) fn judge(file: &Path, version: &str) -> Result<String> {
    let said = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    judged(&said, version).with_context(|| format!("totoro-node check; see {}", file.display()))
}

fn judged(said: &str, version: &str) -> Result<String> {
    let (text, rest) = said.split_once(ENDED).context("it did not end")?;
    let (code, rest) = rest.split_once('\n').context("it has no exit code")?;
    let (json, json_code) = rest
        .split_once(ENDED)
        .context("with --json it did not end")?;
    let codes = (code, json_code.trim());
    ensure!(codes == ("0", "0"), "exit codes {codes:?}");
    for word in VERIFIER {
        ensure!(
            !said.contains(word),
            "it has {word:?} in it, as a verifier's log"
        );
    }
    let lines: Vec<Value> = serde_json::from_str(json).context("read its JSON")?;
    let of = |component: &str| {
        let mut all = lines.iter();
        all.find(|line| line["component"] == component)
            .with_context(|| format!("no line on {component}"))
    };
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();

    let kernel = of("kernel")?;
    let (release, lacks) = (word(kernel, "target"), word(kernel, "detail"));
    ensure!(
        release.starts_with(&format!("{version}.")),
        "it names the kernel {release:?}"
    );
    ensure!(
        lacks.contains("no TCX") && lacks.contains("clsact"),
        "of {release} it says {lacks:?}"
    );
    // People are told the same.
    ensure!(
        text.contains(&release) && text.contains(&lacks),
        "the table does not say that of {release}: {lacks}"
    );
    let interface = of("interface")?;
    let way = (word(interface, "target"), word(interface, "detail"));
    ensure!(
        way.0 == INTERFACE && way.1.starts_with("tc "),
        "of the interface it says {way:?}"
    );
    let warned = lines.iter().filter(|line| line["status"] == "warn");
    let warned: Vec<String> = warned.map(|line| word(line, "component")).collect();
    Ok(format!(
        "check on {release}: {} lines, warnings on {}; {lacks}",
        lines.len(),
        warned.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LACKS: &str = "has BTF; has no TCX (6.6), so TC filters are clsact's";

    fn said(detail: &str, codes: (u8, u8)) -> String {
        let lines = serde_json::json!([
            {"component": "kernel", "target": "6.1.0-1", "status": "ok", "detail": detail},
            {"component": "interface", "target": INTERFACE, "status": "warn", "detail": "tc (xdp = auto): x"},
        ]);
        format!(
            "COMPONENT\nkernel  6.1.0-1  OK  {detail}\n{ENDED}{}\n{lines:#}\n{ENDED}{}\n",
            codes.0, codes.1
        )
    }

    #[test]
    fn plain_words_pass() {
        let told = judged(&said(LACKS, (0, 0)), "6.1").unwrap();
        assert!(
            told.contains("6.1.0-1") && told.contains("no TCX"),
            "{told}"
        );
        assert!(told.contains("warnings on interface"), "{told}");
    }

    #[test]
    fn what_is_not_said_or_not_plain_does_not() {
        let dump = format!("{LACKS}: 0: R1=ctx() R10=fp0");
        for (wrong, version, why) in [
            (said(LACKS, (1, 0)), "6.1", "exit codes"),
            (said(LACKS, (0, 1)), "6.1", "exit codes"),
            (said("has BTF and TCX", (0, 0)), "6.1", "it says"),
            (said(LACKS, (0, 0)), "6.2", "names the kernel"),
            (said(&dump, (0, 0)), "6.1", "verifier"),
            ("the program is killed".to_owned(), "6.1", "did not end"),
        ] {
            let error = judged(&wrong, version).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
