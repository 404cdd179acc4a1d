//! Which version of a library is built in.

/// All of the workspace's, as they are when this is built.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// A library's version in the workspace, for [`crate::Run::baseline`]; of several, all.
///
/// # Panics
/// There is none of that name: a mistake of the bench.
#[must_use]
pub fn locked(library: &str) -> String {
    let name = format!("name = \"{library}\"");
    let after = LOCK.lines().zip(LOCK.lines().skip(1));
    let versions = after.filter(|(line, _)| *line == name);
    let versions = versions.filter_map(|(_, line)| line.split('"').nth(1));
    let versions: Vec<&str> = versions.collect();
    assert!(!versions.is_empty(), "{library} is not in Cargo.lock");
    versions.join(", ")
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn finds_versions() {
        let version = locked("totoro-report");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        // Two of one name are told apart by whoever reads it.
        let digits = |text: &str| text.split('.').all(|part| part.parse::<u32>().is_ok());
        assert!(locked("serde").split(", ").all(digits));
    }
}
