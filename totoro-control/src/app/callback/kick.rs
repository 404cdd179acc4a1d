//! Ending a session by the lender's or an admin's will. Nobody has to be told: who asks next is refused.

use totoro_api::wire::node::SessionUsage;

use super::book::{self, Session};
use super::desk::Desk;
use crate::app::{App, Failure};
use crate::audit::{Author, rfc3339_ms};
use crate::store::{StoreError, records};

impl App {
    /// The sessions that are on at a node of this grade, each with its tenant.
    ///
    /// # Errors
    /// When the store fails.
    pub fn callback_sessions(&self, node: &str) -> Result<Vec<(String, SessionUsage)>, StoreError> {
        let sessions = records::<Session>(&*self.store, &book::sessions(node))?.into_iter();
        let on = sessions.map(|(_, found)| found.value);
        Ok(on
            .filter(Session::connected)
            .map(|session| {
                let usage = SessionUsage {
                    id: session.id,
                    client: session.client.to_string(),
                    since: rfc3339_ms(session.opened_ms),
                    frpc_version: session.frpc_version,
                };
                (session.tenant, usage)
            })
            .collect())
    }

    /// Ends a session for good: its leases wait, its tickets open nothing any more. frpc is told at
    /// its next ping; without pings frps goes on with its proxies, and every user is refused. False
    /// when there is no such session.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn end_callback_session(
        &self,
        node: &str,
        session: &str,
        author: &Author,
    ) -> Result<bool, Failure> {
        let (ended, _) = self
            .transact(|tx| {
                let mut desk = Desk::open(self, tx, node, author.clone())?;
                let found = desk.sessions.iter().find(|(_, known)| known.id == session);
                let Some(run_id) = found.map(|(run_id, _)| run_id.clone()) else {
                    return Ok(false);
                };
                desk.end_session(&run_id, "kicked", None, true)?;
                Ok(true)
            })
            .await?;
        Ok(ended)
    }
}
