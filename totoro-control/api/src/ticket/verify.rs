//! Verifying: one ticket, or several at once.

use ed25519_dalek::verify_batch;

use super::Verified;
use super::paseto::Unverified;
use crate::{Reason, Refusal};

/// The most that it is worth while to verify together: with more each takes 4 µs less of 23, and all wait for the
/// last (`docs/performance.md`, "Signatures together").
pub const AT_ONCE: usize = 4;

/// A ticket that was signed with the key that it names.
#[derive(Debug)]
pub struct Genuine(Unverified);

impl Genuine {
    /// What it says. `now` is Unix seconds by the control plane's clock.
    ///
    /// # Errors
    /// `ticket_malformed`, `ticket_wrong_node`; `ticket_forged` where it was signed outside its key's
    /// window.
    pub fn claims(&self, now: i64) -> Result<Verified, Refusal> {
        self.0.claims(now)
    }
}

impl Unverified {
    /// Checks that the key which it names signed it.
    ///
    /// # Errors
    /// `ticket_forged`.
    pub fn verify(self) -> Result<Genuine, Refusal> {
        let key = &self.key.public;
        match key.verify_strict(&self.signed, &self.signature) {
            Ok(()) => Ok(Genuine(self)),
            Err(_) => Err(Reason::TicketForged.into()),
        }
    }
}

/// What [`Unverified::verify`] says of each. Together they take half as long or less, and where one of
/// them is forged half as long again: then each is verified by itself.
///
/// Who has the secret key can make a signature that only one of the two ways takes. Nobody else can, and
/// who has it may sign.
#[must_use]
pub fn verify_all(all: Vec<Unverified>) -> Vec<Result<Genuine, Refusal>> {
    let are_genuine = all.len() > 1 && together(&all);
    let one = |one: Unverified| {
        if are_genuine {
            Ok(Genuine(one))
        } else {
            one.verify()
        }
    };
    all.into_iter().map(one).collect()
}

/// Whether all of them are genuine.
fn together(some: &[Unverified]) -> bool {
    let messages: Vec<&[u8]> = some.iter().map(|one| &*one.signed).collect();
    let signatures: Vec<_> = some.iter().map(|one| one.signature).collect();
    let keys: Vec<_> = some.iter().map(|one| one.key.public).collect();
    verify_batch(&messages, &signatures, &keys).is_ok()
}
