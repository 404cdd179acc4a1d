//! Names of runs: a letter, the process that began it, and chance, as in `t4711x9c2e`. Whatever a
//! run makes in the kernel has its name as one component, so that it is found again, and is known
//! to be abandoned once that process is gone.

use std::path::Path;
use std::sync::OnceLock;

/// A new run's name. By chance too, because process ids are used again.
#[must_use]
pub fn new_tag(kind: char) -> String {
    let mut chance = [0; 2];
    // Without randomness the process id alone must do; nothing depends on it but tidiness.
    getrandom::fill(&mut chance).ok();
    let chance = u16::from_ne_bytes(chance);
    format!("{kind}{}x{chance:04x}", std::process::id())
}

/// The name of this run of the tests: the one `cargo xtask test` gave, or our own.
#[must_use]
pub fn run_tag() -> String {
    static OWN: OnceLock<String> = OnceLock::new();
    std::env::var("TOTORO_TEST_TAG").unwrap_or_else(|_| OWN.get_or_init(|| new_tag('t')).clone())
}

/// Whether a lab may be called that.
pub(super) fn is_good(tag: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=24).contains(&tag.len()) && tag.bytes().all(good) && !tag.starts_with('-')
}

/// Whether the process that began a run is gone; `false` when the name does not tell.
pub(super) fn is_abandoned(tag: &str) -> bool {
    process_of(tag).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process that began a run.
fn process_of(tag: &str) -> Option<u32> {
    tag.split('-').find_map(|part| {
        let (pid, chance) = part.get(1..)?.split_once('x')?;
        (chance.len() == 4).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::{is_abandoned, is_good, new_tag, process_of};

    #[test]
    fn a_name_tells_its_process() {
        assert_eq!(process_of("t4711x9c2e"), Some(4711));
        assert_eq!(process_of("t4711x9c2e-keep"), Some(4711));
        assert_eq!(process_of("story"), None);
        assert_eq!(process_of(""), None);
        let own = new_tag('d');
        assert_eq!(process_of(&own), Some(std::process::id()));
        assert!(is_good(&own) && !is_abandoned(&own) && !is_abandoned("story"));
        assert!(is_abandoned("t4294967295x0000"));
        assert!(!is_good("") && !is_good("-a") && !is_good("a/b"));
    }
}
