//! Nodes as they are found and shown.

use std::collections::BTreeMap;

use totoro_api::frpc::host_port;
use totoro_api::ports::Pool;
use totoro_api::wire::node::{Grade, Heartbeat, Node, NodePage, NodeState};
use totoro_api::wire::push::Applied;
use totoro_api::{Reason, limits::Limits};

use super::{App, Failure, fields};
use crate::records::{AppliedRecord, NewNodeFields, NodeRecord, key};
use crate::store::{Range, Record, StoreError, prefix_end, read, records};

/// The most addresses of one node.
const MAX_ADDRESSES: usize = 8;

/// A page of records and where the next begins.
pub type Listing<T> = (Vec<T>, Option<String>);

impl App {
    /// The node's record.
    ///
    /// # Errors
    /// `node_unknown`.
    pub fn node_record(&self, id: &str) -> Result<Record<NodeRecord>, Failure> {
        fields::checked_id(id).map_err(|_| Failure::from(Reason::NodeUnknown))?;
        let found = read::<NodeRecord>(&*self.store, &key::node(id))?;
        Ok(found.ok_or(Reason::NodeUnknown)?)
    }

    /// The node with this id or this name.
    ///
    /// # Errors
    /// `node_unknown`.
    pub fn node_named(&self, name: &str) -> Result<Record<NodeRecord>, Failure> {
        match self.node_record(name) {
            Err(Failure::Refused(_)) => {}
            found => return found,
        }
        fields::checked_id(name).map_err(|_| Failure::from(Reason::NodeUnknown))?;
        let id = read::<String>(&*self.store, &key::node_name(name))?.ok_or(Reason::NodeUnknown)?;
        self.node_record(&id.value)
    }

    /// The id of the node with this id or this name; one that was removed has its id still, and its
    /// part of the trail.
    ///
    /// # Errors
    /// `node_unknown`.
    pub fn node_ever(&self, name: &str) -> Result<String, Failure> {
        match self.node_named(name) {
            Ok(node) => Ok(node.value.id),
            Err(_) if name.starts_with("n-") => Ok(fields::checked_id(name)?.to_owned()),
            Err(failure) => Err(failure),
        }
    }

    /// Node records in the order of their ids, after `cursor`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn node_records(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Listing<Record<NodeRecord>>, Failure> {
        let after = format!(
            "{}{}",
            key::NODES,
            cursor.map(|id| format!("{id}\0")).unwrap_or_default()
        );
        let to = prefix_end(key::NODES.as_bytes());
        let range = Range {
            from: after.as_bytes(),
            to: &to,
            limit: limit + 1,
            reverse: false,
        };
        let mut records = Vec::new();
        for (at, found) in self.store.range(range)? {
            let value =
                serde_json::from_slice(&found.value).map_err(|source| StoreError::Unreadable {
                    key: String::from_utf8_lossy(&at).into_owned(),
                    source,
                })?;
            records.push(Record {
                revision: found.revision,
                value,
            });
        }
        let next = cut(&mut records, limit, |record: &Record<NodeRecord>| {
            record.value.id.clone()
        });
        Ok((records, next))
    }

    /// A page of nodes as admins see them.
    ///
    /// # Errors
    /// When the store fails.
    pub fn nodes(&self, cursor: Option<&str>, limit: usize) -> Result<NodePage, Failure> {
        let (records, next) = self.node_records(cursor, limit)?;
        let items = records.into_iter().map(|record| self.node_view(record));
        Ok(NodePage {
            items: items.collect::<Result<_, _>>()?,
            next,
        })
    }

    /// A node as its lender and the admins see it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn node_view(&self, record: Record<NodeRecord>) -> Result<Node, Failure> {
        let Record {
            revision: version,
            value: record,
        } = record;
        let seen = self.reported(&record);
        let heard = self.heard_ago(&record);
        let applied = read::<AppliedRecord>(&*self.store, &key::applied(&record.id))?
            .map(|applied| applied.value)
            .unwrap_or_default();
        let (state, problems) = self.node_state(&record, &applied);
        let heartbeat = seen.as_ref().map(|seen| &*seen.heartbeat);
        let grade = self.grade_of(&record);
        let is_known = record.callback || heartbeat.is_some();
        let known_grade = (is_known && !record.instance.is_empty()).then_some(grade);
        let live = self.lives(&record)?;
        let policy = self.policy_revision(&record.id)?;
        let unlisted = self.unlisted(&record)?;
        let said = record.said;
        Ok(Node {
            id: record.id,
            name: said.name,
            visibility: said.visibility,
            server_addr: said.server_addr,
            pool: said.pool,
            defaults: said.defaults,
            public_limits: said.public_limits,
            public_max: said.public_max,
            region: said.region,
            isp: said.isp,
            tags: said.tags,
            abuse_contact: said.abuse_contact,
            state,
            draining: record.draining,
            live,
            problems,
            unlisted,
            grade,
            known_grade,
            unenforced: unenforced(grade),
            features: heartbeat
                .map(|heartbeat| heartbeat.features.clone())
                .unwrap_or_default(),
            instance: record.instance,
            versions: heartbeat.map(versions).unwrap_or_default(),
            seen_s: heard.map(|heard| heard.as_secs()),
            policy,
            applied: Applied {
                revision: applied.revision,
                keys: applied.keys,
                error: applied.error,
            },
            version,
        })
    }

    /// How many nodes are in each state.
    ///
    /// # Errors
    /// When the store fails.
    pub fn nodes_by_state(&self) -> Result<Vec<(&'static str, i64)>, StoreError> {
        use NodeState as S;
        let states = [S::Online, S::Degraded, S::Offline, S::Draining, S::Disabled];
        let mut counts = vec![0; states.len()];
        for (_, record) in records::<NodeRecord>(&*self.store, key::NODES)? {
            let node = record.value;
            let applied = read::<AppliedRecord>(&*self.store, &key::applied(&node.id))?;
            let applied = applied.map(|record| record.value).unwrap_or_default();
            let (state, _) = self.node_state(&node, &applied);
            if let Some(at) = states.iter().position(|&known| known == state) {
                counts[at] += 1;
            }
        }
        let names = ["online", "degraded", "offline", "draining", "disabled"];
        Ok(names.into_iter().zip(counts).collect())
    }

    /// Whether the node serves, and what is wrong with it.
    pub(super) fn node_state(
        &self,
        record: &NodeRecord,
        applied: &AppliedRecord,
    ) -> (NodeState, Vec<String>) {
        let mut problems: Vec<String> = applied.error.iter().cloned().collect();
        if let Some(seen) = self.reported(record) {
            problems.extend(seen.heartbeat.missing.iter().cloned());
        }
        let state = if record.disabled {
            NodeState::Disabled
        } else if !self.is_heard(record) {
            NodeState::Offline
        } else if record.draining {
            NodeState::Draining
        } else if problems.is_empty() {
            NodeState::Online
        } else {
            NodeState::Degraded
        };
        (state, problems)
    }
}

/// Cuts a page that was read one longer than asked for; answers the cursor of the next.
pub(super) fn cut<T>(
    records: &mut Vec<T>,
    limit: usize,
    id: impl Fn(&T) -> String,
) -> Option<String> {
    if records.len() <= limit {
        return None;
    }
    records.truncate(limit);
    records.last().map(id)
}

/// The versions in a heartbeat, by component.
pub(super) fn versions(heartbeat: &Heartbeat) -> BTreeMap<String, String> {
    [
        ("agent", &heartbeat.agent_version),
        ("frps", &heartbeat.frps_version),
        ("kernel", &heartbeat.kernel_version),
    ]
    .into_iter()
    .filter(|(_, version)| !version.is_empty())
    .map(|(name, version)| (name.to_owned(), version.clone()))
    .collect()
}

/// What a grade cannot hold: frp tells no plugin that a user's connection has ended.
pub(super) fn unenforced(grade: Grade) -> Vec<String> {
    match grade {
        Grade::Kernel => Vec::new(),
        Grade::Callback => [
            "max_conns",
            "max_conns_per_source",
            "max_flows",
            "live_revocation",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

/// Checks what an admin says of a node.
pub(super) fn check(said: &NewNodeFields) -> Result<(), Failure> {
    let name = &said.name;
    let fits = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !fits {
        return Err(Failure::malformed(
            "name: letters, digits and -, at most 63",
        ));
    }
    if said.server_addr.is_empty() || said.server_addr.len() > MAX_ADDRESSES {
        return Err(Failure::malformed(format!(
            "server_addr: 1 to {MAX_ADDRESSES} addresses"
        )));
    }
    for address in &said.server_addr {
        if host_port(address).is_none() {
            return Err(Failure::malformed(
                "server_addr: write host:port, 192.0.2.1:7000 or [2001:db8::1]:7000",
            ));
        }
    }
    let Pool { tcp, udp } = &said.pool;
    fields::ranges("pool.tcp", tcp)?;
    fields::ranges("pool.udp", udp)?;
    if tcp.is_empty() && udp.is_empty() {
        return Err(Failure::malformed("pool: names no port"));
    }
    let ports = |limits: &Limits, field| fields::limits(field, limits, &said.pool);
    ports(&said.defaults, "defaults")?;
    ports(&said.public_limits, "public_limits")?;
    for (field, text) in [
        ("region", &said.region),
        ("isp", &said.isp),
        ("abuse_contact", &said.abuse_contact),
    ] {
        fields::text(field, text, 120)?;
    }
    if said.tags.len() > 16 {
        return Err(Failure::malformed("tags: at most 16"));
    }
    said.tags
        .iter()
        .try_for_each(|tag| fields::text("tags", tag, 40))
}
