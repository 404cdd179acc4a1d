//! One descriptor per connection: the limit on them is raised as far as it goes, and what is beyond
//! is said at the start, not found out under load.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is open besides connections: the store, audit segments while they are read, probes of
/// nodes' addresses. Connections leave so many, or under load an event could not be written.
const OTHERS: u64 = 200;

/// How many of the `wanted` connections, beside those for admins, there are descriptors for. Raises
/// the soft limit where the hard one allows it.
pub(super) fn for_connections(wanted: usize, admins: usize) -> usize {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files is not known");
            return wanted;
        }
    };
    let need = wanted as u64 + admins as u64 + OTHERS;
    let limit = match soft >= need {
        true => soft,
        false => need.min(hard),
    };
    if limit > soft
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, limit, hard)
    {
        tracing::warn!(%error, limit, "the limit on open files cannot be raised");
        return within(wanted, admins, soft);
    }
    within(wanted, admins, limit)
}

/// How many fit below the limit; what does not is said.
fn within(wanted: usize, admins: usize, limit: u64) -> usize {
    let room = limit.saturating_sub(admins as u64 + OTHERS).max(1);
    let fit = usize::try_from(room).map_or(wanted, |room| wanted.min(room));
    if fit < wanted {
        tracing::warn!(
            max_connections = wanted,
            limit,
            "there are descriptors for {fit} connections only: raise the hard limit on open files \
             (LimitNOFILE= in the unit, ulimit -Hn) to {}, or lower max_connections",
            wanted as u64 + admins as u64 + OTHERS
        );
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_is_open_keeps_its_descriptors() {
        assert_eq!(within(10_000, 0, 20_000), 10_000);
        assert_eq!(within(10_000, 64, 10_264), 10_000);
        assert_eq!(within(10_000, 64, 10_263), 9_999);
        assert_eq!(within(10_000, 64, 1024), 1024 - 64 - 200);
        assert_eq!(within(10_000, 0, 100), 1, "one is better than none");
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let all = usize::try_from(hard - OTHERS)
            .unwrap_or(usize::MAX)
            .min(1 << 16);
        assert_eq!(for_connections(all, 0), all);
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= all as u64 + OTHERS, "{soft}");
    }
}
