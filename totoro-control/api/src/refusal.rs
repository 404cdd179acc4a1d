//! A reason together with what it says about the case at hand.

use crate::reason::{Lang, Reason};

/// A refusal: the stable reason and, where there is more to say than the reason's own line, the
/// detail of this case. Shown as `totoro[max_proxies]: what happened; what to do next`, which is
/// the line that frpc prints. Carries no secret, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable reason.
    pub reason: Reason,
    /// What happened in this case; the reason's own line when `None`.
    pub detail: Option<String>,
}

impl Refusal {
    /// A refusal that says just what its reason says.
    #[must_use]
    pub const fn new(reason: Reason) -> Self {
        Self {
            reason,
            detail: None,
        }
    }

    /// A refusal with the detail of this case in place of the reason's own line.
    #[must_use]
    pub fn with(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: Some(detail.into()),
        }
    }

    /// What happened: the detail, or the reason's own line.
    #[must_use]
    pub fn what(&self) -> &str {
        self.detail
            .as_deref()
            .unwrap_or_else(|| self.reason.what(Lang::En))
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "totoro[{}]: {}; {}",
            self.reason,
            self.what(),
            self.reason.next(Lang::En)
        )
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_frpc_prints() {
        let refusal = Refusal::with(
            Reason::MaxProxies,
            "this invite allows 2 proxies and both are in use",
        );
        assert_eq!(
            refusal.to_string(),
            "totoro[max_proxies]: this invite allows 2 proxies and both are in use; \
             close one or ask for a larger invite"
        );
    }
}
