//! What holds limits while the daemon is away: the programs, where they are all attached.

use crate::cli::check::{Line, Status};
use crate::config::Config;
use crate::kernel;

/// What there is of this build's programs and of others'.
pub(super) enum Held {
    /// All of them are attached; how many.
    Whole(usize),
    /// These are not.
    Parts(Vec<&'static str>),
    /// What is loaded is another ABI's, or can't be looked at: why.
    Unknown(String),
    /// There are none: why.
    Nothing(String),
}

impl Held {
    /// Looks.
    pub(super) fn find(config: &Config) -> Held {
        match kernel::dead_links(&config.pin_root, &config.cgroup) {
            Ok((all, dead)) if dead.is_empty() => Held::Whole(all),
            Ok((_, dead)) => Held::Parts(dead),
            Err(error) if kernel::any_loaded(&config.pin_root) => Held::Unknown(error.whole()),
            Err(error) => Held::Nothing(error.whole()),
        }
    }

    /// Whether this build's tables are there to look at.
    pub(super) const fn has_tables(&self) -> bool {
        matches!(self, Held::Whole(_) | Held::Parts(_))
    }

    /// Whether the programs are where they were attached.
    pub(super) fn line(&self, config: &Config) -> Line {
        let (status, detail) = match self {
            Held::Whole(all) => (
                Status::Ok,
                format!("{all} programs attached, where they belong"),
            ),
            Held::Parts(dead) => (
                Status::Fail,
                format!(
                    "not attached: {}; a running daemon attaches them again within 5 s, else restart \
                     it: systemctl restart totoro-node",
                    dead.join(", ")
                ),
            ),
            Held::Unknown(why) | Held::Nothing(why) => (Status::Fail, why.clone()),
        };
        let shown = config.pin_root.display().to_string();
        Line::new("kernel", shown, status, detail)
    }

    /// What it means that no daemon runs, and what to do.
    pub(super) const fn without_daemon(&self) -> &'static str {
        match self {
            Held::Whole(_) => {
                "not running: limits hold and live tunnels go on, but nobody new gets in; start it: systemctl start \
                 totoro-node"
            }
            Held::Parts(_) | Held::Unknown(_) => {
                "not running: what is loaded goes on, as the kernel's line says, and nobody new gets in; start it: \
                 systemctl start totoro-node"
            }
            Held::Nothing(_) => {
                "not running, and nothing is loaded that would hold limits: what goes through frps is without any; \
                 start it: systemctl start totoro-node, or stop frps: systemctl stop totoro-frps"
            }
        }
    }
}
