//! What the kernel side refused while something took effect. Nothing of it stops the rest: one
//! tenant's failure must not leave another's revocation undone.

use crate::kernel::KernelError;

/// The failures so far, each of them logged.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<String>);

impl Failures {
    /// Takes note of an outcome, and passes on what was good.
    pub(super) fn note<T>(&mut self, outcome: Result<T, KernelError>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(
                    error = error.whole(),
                    "the kernel side failed; the rest goes on, and this is tried again"
                );
                self.0.push(error.whole());
                None
            }
        }
    }

    /// The first, and how many there were beside it.
    pub(super) fn first(&self) -> Option<String> {
        let first = self.0.first()?;
        Some(match self.0.len() - 1 {
            0 => first.clone(),
            more => format!("{first} (and {more} more)"),
        })
    }

    /// As [`Failures::first`], as an error.
    pub(super) fn into_result(self) -> anyhow::Result<()> {
        self.first()
            .map_or(Ok(()), |first| Err(anyhow::anyhow!(first)))
    }

    /// Whether there was one.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }
}
