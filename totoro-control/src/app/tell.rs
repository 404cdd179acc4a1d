//! Telling all nodes of something. There may be more of them than fit one commit, so a mark says
//! that it is to be done, and goes when it is: a crash in between costs a repeat.

use super::{App, Failure};
use crate::push;
use crate::records::{Change, key};
use crate::store::{names, read};

/// Nodes told in one commit.
const CHUNK: usize = 500;

impl App {
    /// Tells all nodes that the bans of all nodes changed, where they are still to be told.
    pub(super) async fn tell_bans(&self) -> Result<(), Failure> {
        let Some(mark) = self.store.get(key::BANS_UNTOLD.as_bytes())? else {
            return Ok(());
        };
        self.tell_all(&Change::Bans).await?;
        self.transact(|tx| {
            // Another change in the meantime tells for itself.
            let stands = tx.get::<()>(key::BANS_UNTOLD)?;
            if stands.is_some_and(|stands| stands.revision == mark.revision) {
                tx.delete(key::BANS_UNTOLD);
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Tells all nodes of the ticket keys, where they are not the ones that they were told of.
    pub(super) async fn tell_keys(&self) -> Result<(), Failure> {
        let mut hash = blake3::Hasher::new();
        for key in self.ticket_keys() {
            hash.update(key.kid.as_bytes()).update(b"\n");
        }
        let keys = hash.finalize().to_hex().to_string();
        let told = read::<String>(&*self.store, key::KEYS_TOLD)?;
        if told.is_some_and(|told| told.value == keys) {
            return Ok(());
        }
        self.tell_all(&Change::Keys).await?;
        self.transact(|tx| Ok(tx.put(key::KEYS_TOLD, &keys)?))
            .await?;
        Ok(())
    }

    async fn tell_all(&self, change: &Change) -> Result<(), Failure> {
        for nodes in names(&*self.store, key::NODES)?.chunks(CHUNK) {
            self.transact(|tx| {
                Ok(nodes
                    .iter()
                    .try_for_each(|id| push::touch(tx, id, change))?)
            })
            .await?;
        }
        Ok(())
    }
}
