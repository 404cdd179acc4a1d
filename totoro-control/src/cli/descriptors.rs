//! How many files and connections the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is open besides connections: the store, segments, the log.
const OTHERS: u64 = 256;

/// Takes as many descriptors as the system lets it have: a shell's usual soft limit of 1,024 is far
/// below `max_connections`, and without one left nothing can be accepted and no segment begun.
pub(super) fn raise(max_connections: u32) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) if limit < u64::from(max_connections) + OTHERS => tracing::warn!(
            limit,
            max_connections,
            "fewer descriptors than max_connections needs: raise the limit (LimitNOFILE, ulimit -n) \
             or lower max_connections"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open descriptors"),
    }
}
