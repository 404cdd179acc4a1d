//! Who is calling, and what they may reach. Wrong, missing, unknown: one path, one answer.

use std::net::IpAddr;
use std::sync::Arc;

use totoro_api::Reason;

use super::token::Need;
use super::{App, Failure};
use crate::audit::Author;
use crate::keys::{Purpose, TokenKind};
use crate::records::NodeRecord;
use crate::store::StoreError;

/// What a caller may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One node's own things: its key was shown.
    Node(String),
    /// Everything: an admin's token was shown.
    All,
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What it may reach.
    pub reach: Reach,
    /// The node's or the token's name.
    pub name: String,
    /// Who its events are by.
    pub author: Author,
}

impl Caller {
    /// The node that a request is about: the caller's own, or the one that an admin names.
    ///
    /// # Errors
    /// When an admin names none, or a node names another.
    pub fn node<'a>(&'a self, named: Option<&'a str>) -> Result<&'a str, Failure> {
        match (&self.reach, named) {
            (Reach::Node(own), None) => Ok(own),
            (Reach::Node(own), Some(named)) if own == named || self.name == named => Ok(own),
            (Reach::Node(_), Some(_)) => Err(Reason::NotAuthorized.into()),
            (Reach::All, Some(named)) => Ok(named),
            (Reach::All, None) => Err(Failure::malformed("node: name the node")),
        }
    }

    /// Whether a thing of this node is within reach. What is not is not found.
    #[must_use]
    pub fn reaches(&self, node: &str) -> bool {
        match &self.reach {
            Reach::Node(own) => own == node,
            Reach::All => true,
        }
    }
}

impl App {
    /// The node whose key this is.
    ///
    /// # Errors
    /// `not_authorized`, whatever is wrong with it.
    pub fn node_by_key(&self, text: &str) -> Result<Arc<NodeRecord>, Failure> {
        let hash = self.node_key_hash(blake3::hash(text.as_bytes()).to_hex().as_str());
        match self.node_of_hash(&hash)? {
            Some(node) if TokenKind::NodeKey.fits(text) => Ok(node),
            _ => Err(Reason::NotAuthorized.into()),
        }
    }

    /// The node of which this is the keyed hash of a key that is good now.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn node_of_hash(&self, hash: &str) -> Result<Option<Arc<NodeRecord>>, StoreError> {
        let node = self.node_of_key(hash)?;
        Ok(node.filter(|node| self.is_key_of(node, hash)))
    }

    /// The keyed hash that a node is found by, from the hash that it sends at enrolment.
    pub(crate) fn node_key_hash(&self, key_hash: &str) -> String {
        self.secret.hash_hex(Purpose::NodeKey, key_hash)
    }

    /// The caller with this node key.
    ///
    /// # Errors
    /// `not_authorized`.
    pub fn node_caller(
        &self,
        text: &str,
        address: IpAddr,
        request_id: &str,
    ) -> Result<Caller, Failure> {
        let node = self.node_by_key(text)?;
        let author = Author::remote("node", &node.id, address, request_id);
        Ok(Caller {
            reach: Reach::Node(node.id.clone()),
            name: node.said.name.clone(),
            author,
        })
    }

    /// The caller with this admin token, where its scopes allow what is asked.
    ///
    /// # Errors
    /// `not_authorized`; [`Failure::OutOfScope`].
    pub fn admin_caller(
        &self,
        text: &str,
        need: Need,
        address: IpAddr,
        request_id: &str,
    ) -> Result<Caller, Failure> {
        let (hash, token) = self.held_token(text)?.ok_or(Reason::NotAuthorized)?;
        self.used.note(&hash, self.now());
        need.check(&token.scopes)?;
        let author = Author::remote("admin", &token.name, address, request_id);
        Ok(Caller {
            reach: Reach::All,
            name: token.name,
            author,
        })
    }
}
