//! Sessions of a node at grade `callback` as they are listed, and the end of one that is kicked.

use totoro_api::wire::session::SessionEntry;

use super::book;
use super::desk::Desk;
use crate::app::App;
use crate::audit::{Author, rfc3339_ms};
use crate::store::{StoreError, Tx};

/// Under it: all that a node at this grade has.
pub(in crate::app) fn all_of(node: &str) -> String {
    format!("{}{node}/", book::ALL)
}

impl App {
    /// The sessions that are on, as far as is known.
    pub(in crate::app) fn callback_sessions(
        &self,
        node: &str,
    ) -> Result<Vec<SessionEntry>, StoreError> {
        let seats = book::seats(&*self.store, node)?;
        let on = seats.values().filter(|seat| seat.connected());
        Ok(on
            .map(|session| SessionEntry {
                id: session.id.clone(),
                node: node.to_owned(),
                tenant: session.tenant.clone(),
                client: session.client.to_string(),
                since: rfc3339_ms(session.opened_ms),
                frpc_version: session.frpc_version.clone(),
                kicked: false,
                age_s: 0,
            })
            .collect())
    }

    /// Ends a session for good: its tickets open nothing, and its frpc is refused with the next that
    /// it asks. What already flows goes on until then, as everywhere at this grade.
    pub(in crate::app) fn kick_callback(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        session: &str,
        author: &Author,
    ) -> Result<(), StoreError> {
        let mut desk = Desk::open(self, tx, node, author)?;
        let found = desk.sessions.iter().find(|(_, one)| one.id == session);
        let run_id = found.map(|(run_id, _)| run_id.clone());
        if let Some(run_id) = run_id {
            desk.end_session(&run_id, "kicked", None, true)?;
        }
        desk.leave()?;
        Ok(())
    }
}
