//! What anyone may see and have: the public nodes and anonymous tickets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use totoro_api::Reason;
use totoro_api::limits::Limits;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::invite::PublicTicket;
use totoro_api::wire::node::{PublicNode, PublicNodePage, Visibility};

use super::frpc::Client;
use super::holder::Visitor;
use super::node::{unenforced, versions};
use super::{App, Failure};
use crate::records::{AppliedRecord, NodeRecord, key};
use crate::store::{StoreError, read, records};

/// How old the list may be: heartbeats change it all the time.
const LIST_AGE: Duration = Duration::from_secs(1);

/// The public list, where it was asked for.
#[derive(Default)]
pub(super) struct Listed(Mutex<Option<List>>);

struct List {
    made: Instant,
    /// Changes of the nodes themselves are seen at once.
    changes: watch::Receiver<u64>,
    nodes: Arc<Vec<PublicNode>>,
}

impl App {
    /// A page of public nodes that are not switched off, each with the addresses where it was
    /// reached.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn public_nodes(
        self: &Arc<Self>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<PublicNodePage, Failure> {
        let all = self.all_public_nodes().await?;
        let from = cursor.map_or(0, |cursor| {
            all.partition_point(|node| node.id.as_str() <= cursor)
        });
        let rest = &all[from..];
        let items: Vec<PublicNode> = rest.iter().take(limit).cloned().collect();
        let next = items.last().filter(|_| rest.len() > limit);
        let next = next.map(|last| last.id.clone());
        Ok(PublicNodePage { items, next })
    }

    /// All public nodes in the order of their ids. Made for everyone who asks within a moment, by
    /// the first of them: it costs as much as there are nodes.
    pub(crate) async fn all_public_nodes(
        self: &Arc<Self>,
    ) -> Result<Arc<Vec<PublicNode>>, Failure> {
        let mut listed = self.listed.0.lock().await;
        if let Some(list) = &*listed
            && list.made.elapsed() < LIST_AGE
            && !list.changes.has_changed().unwrap_or(true)
        {
            return Ok(Arc::clone(&list.nodes));
        }
        let (made, changes) = (Instant::now(), self.store.watch(key::NODES.as_bytes()));
        let app = Arc::clone(self);
        let nodes = tokio::task::spawn_blocking(move || app.make_list()).await;
        let nodes = Arc::new(nodes.map_err(|_| Failure::from(Reason::Internal))??);
        *listed = Some(List {
            made,
            changes,
            nodes: Arc::clone(&nodes),
        });
        Ok(nodes)
    }

    fn make_list(&self) -> Result<Vec<PublicNode>, StoreError> {
        let nodes = records::<NodeRecord>(&*self.store, key::NODES)?.into_iter();
        let nodes = nodes.map(|(_, record)| record.value);
        let listed =
            |node: &NodeRecord| node.said.visibility == Visibility::Public && !node.disabled;
        let mut list = Vec::new();
        for mut node in nodes.filter(listed) {
            node.said.server_addr = self.reached(&node)?;
            if !node.said.server_addr.is_empty() {
                list.push(self.public_view(node)?);
            }
        }
        Ok(list)
    }

    fn public_view(&self, node: NodeRecord) -> Result<PublicNode, StoreError> {
        let applied = read::<AppliedRecord>(&*self.store, &key::applied(&node.id))?;
        let (state, _) = self.node_state(&node, &applied.map(|a| a.value).unwrap_or_default());
        let seen = self.reported(&node);
        let heard = self.heard_ago(&node);
        let heartbeat = seen.as_ref().map(|seen| &*seen.heartbeat);
        let grade = self.grade_of(&node);
        let leased = node
            .callback
            .then(|| self.callback_free(&node))
            .transpose()?;
        let said = node.said;
        let lent = || {
            let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
            let pool = &said.pool;
            BTreeMap::from([
                ("tcp".to_owned(), count(pool.tcp.len())),
                ("udp".to_owned(), count(pool.udp.len())),
            ])
        };
        let free = heartbeat.map(|heartbeat| heartbeat.free_ports.clone());
        let free = free.filter(|free| !free.is_empty()).unwrap_or_else(lent);
        let free = leased.unwrap_or(free);
        Ok(PublicNode {
            free_ports: free,
            id: node.id,
            name: said.name,
            region: said.region,
            isp: said.isp,
            tags: said.tags,
            server_addr: said.server_addr,
            state,
            grade,
            unenforced: unenforced(grade),
            public_limits: said.public_limits,
            versions: heartbeat.map(versions).unwrap_or_default(),
            cpu_percent: heartbeat.map_or(0.0, |heartbeat| heartbeat.cpu_percent),
            load1: heartbeat.map_or(0.0, |heartbeat| heartbeat.load1),
            seen_s: heard.map_or(0, |heard| heard.as_secs()),
            abuse_contact: said.abuse_contact,
        })
    }

    /// An anonymous ticket and the file that fetches the next ones.
    ///
    /// # Errors
    /// The refusal.
    pub async fn public_access(
        &self,
        name: &str,
        visitor: Visitor<'_>,
    ) -> Result<PublicTicket, Failure> {
        let (issued, mut node) = self.anonymous(name, visitor).await?;
        node.said.server_addr = self.reached(&node)?;
        let limits = node.said.public_limits.over(&Limits::default());
        let grade = self.grade_of(&node);
        let tls_ca = self.tls_ca(&node.id);
        let frpc_toml = Client {
            server_addr: node.said.server_addr.first().map_or("", String::as_str),
            // Proxy names are global to one frps, and begin with this.
            user: &format!("public-{}", crate::keys::random_hex::<4>()),
            secret: &format!("public:{}", node.id),
            public_url: &self.config.public_url,
            limits: &limits,
            pool: &node.said.pool,
            has_ca: !tls_ca.is_empty(),
            ping_s: self.ping_for(&node),
        }
        .toml()
        .map_err(|_| Failure::from(Reason::Internal))?;
        Ok(PublicTicket {
            node: node.id,
            node_name: node.said.name,
            server_addr: node.said.server_addr,
            limits,
            ticket_expires_at: rfc3339(issued.expires_at),
            renew_after: rfc3339(issued.renew_after()),
            ticket: issued.ticket,
            frpc_toml,
            tls_ca,
            unenforced: unenforced(grade),
            grade,
        })
    }
}
