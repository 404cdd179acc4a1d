//! Signatures of tickets, verified together: what logins bring at the same time takes half the processor
//! time that one after the other takes.

use parking_lot::Mutex;
use tokio::sync::oneshot;
use totoro_api::ticket::{AT_ONCE, Genuine, Unverified, verify_all};
use totoro_api::{Reason, Refusal};

/// A ticket, and who waits for it.
type Waiting = (Unverified, oneshot::Sender<Result<Genuine, Refusal>>);

/// What is to be verified.
#[derive(Debug, Default)]
pub(super) struct Signatures(Mutex<Vec<Waiting>>);

/// Held by who came first: when it is over, all that came meanwhile is verified.
struct Turn<'a>(&'a Signatures);

impl Signatures {
    /// Verifies one, with those of others that are ready to be verified now. Nobody is waited for.
    ///
    /// # Errors
    /// `ticket_forged`.
    pub(super) async fn verify(&self, ticket: Unverified) -> Result<Genuine, Refusal> {
        let (tell, told) = oneshot::channel();
        let is_first = {
            let mut waiting = self.0.lock();
            waiting.push((ticket, tell));
            waiting.len() == 1
        };
        if is_first {
            let turn = Turn(self);
            // Tasks of this thread that are ready go on before: what they bring comes along.
            tokio::task::yield_now().await;
            drop(turn);
        }
        told.await.unwrap_or(Err(Reason::Internal.into()))
    }
}

/// Whoever is given up while it is first leaves nobody waiting.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = std::mem::take(&mut *self.0.0.lock()).into_iter();
        while waiting.len() > 0 {
            let (tickets, tell): (Vec<_>, Vec<_>) = waiting.by_ref().take(AT_ONCE).unzip();
            for (verified, tell) in verify_all(tickets).into_iter().zip(tell) {
                // It may be given up.
                let _ = tell.send(verified);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use totoro_api::limits::Limits;
    use totoro_api::ticket::{Claims, Grant, Keys, Revision, SigningKey, sign};
    use totoro_api::wire::push::TicketKey;

    use super::*;

    /// Tickets of two keys with one name, of which the first is the node's: the others are forged.
    fn tickets(genuine: &[bool]) -> Vec<Unverified> {
        let (key, other) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let published = |public: String| TicketKey {
            kid: key.kid().to_owned(),
            public,
            not_before: 0,
            expires: i64::MAX,
        };
        let keys = [key.public(), other.public()].map(|key| Keys::from(vec![published(key)]));
        let ticket = |(number, genuine): (usize, &bool)| {
            let claims = Claims {
                jti: number.to_string(),
                node: "n1".to_owned(),
                grant: Grant::Public(true),
                subject: String::new(),
                epoch: 1,
                limits: Limits::default(),
                revision: Revision::default(),
                iat: 0,
                exp: i64::MAX,
                session_until: i64::MAX,
            };
            let keys = &keys[usize::from(!genuine)];
            Unverified::read(&sign(&key, &claims), "n1", keys).unwrap()
        };
        genuine.iter().enumerate().map(ticket).collect()
    }

    fn jti(verified: Result<Genuine, Refusal>) -> Result<String, Reason> {
        let verified = verified.map_err(|refusal| refusal.reason)?;
        Ok(verified.claims(0).unwrap().claims.jti)
    }

    #[tokio::test]
    async fn each_is_told_of_its_own_ticket() {
        let signatures = Arc::new(Signatures::default());
        let genuine = [true, true, false, true, true, false, true];
        let asking: Vec<_> = tickets(&genuine)
            .into_iter()
            .map(|ticket| {
                let signatures = Arc::clone(&signatures);
                tokio::spawn(async move { signatures.verify(ticket).await })
            })
            .collect();
        for ((number, genuine), asked) in genuine.iter().enumerate().zip(asking) {
            let right = genuine
                .then(|| number.to_string())
                .ok_or(Reason::TicketForged);
            assert_eq!(jti(asked.await.unwrap()), right);
        }
        assert!(signatures.0.lock().is_empty());
    }

    #[tokio::test]
    async fn the_first_may_be_given_up_and_nobody_waits_for_ever() {
        let signatures = Signatures::default();
        let mut all = tickets(&[true, true]).into_iter();
        let mut first = Box::pin(signatures.verify(all.next().unwrap()));
        let mut second = Box::pin(signatures.verify(all.next().unwrap()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert_eq!(jti(second.await), Ok("1".to_owned()));
    }
}
