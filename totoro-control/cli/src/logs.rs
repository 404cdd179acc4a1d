//! Which lines of the log are wanted.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::out;

/// The variable that says so.
const VARIABLE: &str = "TOTORO_LOG";

/// What `TOTORO_LOG` says; `otherwise` where it says nothing, and where it can't be read, which is said on the
/// standard error: a log that is silent by a typing error is missed when it is needed.
#[must_use]
pub fn log_filter(otherwise: &str) -> EnvFilter {
    let said = std::env::var_os(VARIABLE).unwrap_or_default();
    let said = said.to_string_lossy();
    if said.is_empty() {
        return EnvFilter::new(otherwise);
    }
    read(&said).unwrap_or_else(|why| {
        out::warn(format_args!("{VARIABLE}: {why}; taken for {otherwise}"));
        EnvFilter::new(otherwise)
    })
}

/// Reads `debug` or `info,totoro_node::sync=trace`.
fn read(said: &str) -> Result<EnvFilter, String> {
    // A word alone would be a target's name, all of whose lines are wanted, and nobody else's.
    let is_level = |word: &str| word.contains('=') || word.parse::<LevelFilter>().is_ok();
    match said.split(',').find(|word| !is_level(word)) {
        Some(word) => Err(format!(
            "{word:?} is no level; write off, error, warn, info, debug or trace, or totoro_node=debug,info"
        )),
        None => EnvFilter::try_new(said).map_err(|error| format!("{said:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_targets_with_theirs() {
        for (said, most) in [
            ("warn", LevelFilter::WARN),
            ("INFO", LevelFilter::INFO),
            ("off", LevelFilter::OFF),
            ("info,totoro_node::sync=trace", LevelFilter::TRACE),
            ("totoro_node=debug,warn", LevelFilter::DEBUG),
        ] {
            let filter = read(said).unwrap();
            assert_eq!(filter.max_level_hint(), Some(most), "{said}");
        }
    }

    #[test]
    fn what_would_silence_all_by_a_typing_error_is_refused() {
        for said in ["warning", "info;debug", "totoro_node", "totoro_node=loud"] {
            assert!(read(said).is_err(), "{said}");
        }
    }
}
