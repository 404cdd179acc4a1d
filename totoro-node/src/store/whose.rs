//! Which node's state it is. A machine that is enrolled as another must not go on with what was left: what the
//! former node spooled would be told of as the new one's, and its sessions would live on.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Changes, Get, META, Store};

/// Key in `META`: the node's id. Earlier versions neither write nor read it.
const NODE: &str = "node";

/// Whether state that was left in `dir` is known to be this node's; an earlier version did not say whose it is.
///
/// # Errors
/// It is another node's; or the disk.
pub fn is_of(node: &str, left: &impl Get, dir: &Path) -> Result<bool> {
    match left.get::<String>(META, NODE)? {
        Some(of) if of != node => {
            let dir = dir.display();
            bail!(
                "the state in {dir} is of node {of}, and by its settings this machine is node {node}: move \
                 {dir} away (mv {dir} {dir}.{of}; what {of} has not delivered stays in it), or put the \
                 settings and the key of {of} back"
            )
        }
        of => Ok(of.is_some()),
    }
}

impl Store {
    /// Takes the state of `dir` up as this node's. What an earlier version left is whoever's comes first.
    ///
    /// # Errors
    /// It is another node's, and is left as it is; the disk.
    pub fn claim(&self, node: &str, dir: &Path) -> Result<()> {
        if is_of(node, self, dir)? {
            return Ok(());
        }
        let mut changes = Changes::default();
        changes.put(META, NODE, &node);
        self.commit(&changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_another_node_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |node: &str| {
            let store = Store::open(dir.path()).unwrap();
            store.claim(node, dir.path()).map_err(|no| no.to_string())
        };
        // As an earlier version left it.
        let store = Store::open(dir.path()).unwrap();
        let mut changes = Changes::default();
        changes.put(META, "numbers", &7u32);
        store.commit(&changes).unwrap();
        drop(store);
        for _ in 0..2 {
            assert_eq!(claim("nod_a"), Ok(()));
        }
        let told = claim("nod_b").unwrap_err();
        let at = dir.path().display();
        for word in [
            "of node nod_a",
            "is node nod_b",
            &format!("mv {at} {at}.nod_a"),
        ] {
            assert!(told.contains(word), "{told}");
        }
        assert_eq!(claim("nod_a"), Ok(()), "it was not taken over");
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(claim("nod_b"), Ok(()), "once it is moved away");
    }
}
