//! The nodes, and the invites that are spread over them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use totoro_api::wire::invite::{InvitePage, MAX_COUNT};
use totoro_api::wire::node::{Enrolled, NodeCreated};

use crate::client::{Call, Connection, Target};

/// Connections that enrol nodes and make invites.
const MAKERS: usize = 32;

/// One node's daemon as far as the control plane sees it.
pub(crate) struct Node {
    pub(crate) key: String,
    pub(crate) instance: String,
    /// The loopback address that it comes from: limits by address see as many as there are nodes.
    pub(crate) from: Ipv4Addr,
    /// One of its invites; the others are there for their number.
    pub(crate) invite: String,
}

/// The loopback address of the node with this number.
fn address(number: usize) -> Result<Ipv4Addr> {
    let [high, low] = u16::try_from(number)
        .context("at most 65,536 nodes")?
        .to_be_bytes();
    Ok(Ipv4Addr::new(127, 1, high, low))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

pub(crate) fn post<'a>(path: &'a str, key: &'a str, body: &Value) -> Call<'a> {
    Call {
        method: Method::POST,
        path,
        key,
        headers: &[("content-type", "application/json")],
        body: Bytes::from(body.to_string()),
    }
}

/// Enrols so many nodes and makes so many invites for them, as their lenders would: in batches, each
/// with its node's key. Answers how long each of the two took.
pub(crate) async fn enrol(
    target: &Target,
    admin: &str,
    count: usize,
) -> Result<(Vec<Arc<Node>>, Duration)> {
    let began = Instant::now();
    let each = count.div_ceil(MAKERS);
    let parts = (0..MAKERS).map(|maker| (maker * each).min(count)..((maker + 1) * each).min(count));
    let made = stream::iter(parts).map(|numbers| async move {
        let mut connection = target.connect(Ipv4Addr::LOCALHOST).await?;
        let mut nodes = Vec::with_capacity(numbers.len());
        for number in numbers {
            nodes.push(enrol_one(&mut connection, admin, number).await?);
        }
        Ok::<_, anyhow::Error>(nodes)
    });
    let nodes: Vec<Vec<Node>> = made.buffered(MAKERS).try_collect().await?;
    let nodes = nodes.into_iter().flatten().map(Arc::new).collect();
    Ok((nodes, began.elapsed()))
}

async fn enrol_one(connection: &mut Connection, admin: &str, number: usize) -> Result<Node> {
    let new = json!({
        "name": format!("node-{number}"),
        "server_addr": ["192.0.2.1:7000"],
        "pool": { "tcp": ["20000-20999"], "udp": ["20000-20999"] },
        "region": "eu-west",
        "tags": ["load"],
    });
    let made = connection.call(
        post("/api/v1/admin/nodes", admin, &new),
        StatusCode::CREATED,
    );
    let made: NodeCreated = serde_json::from_slice(&made.await?)?;
    let key = format!("tk1-{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
    let instance: String = random::<16>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let hash = blake3::hash(key.as_bytes()).to_hex();
    let enroll = json!({ "key_hash": hash.as_str(), "instance": instance });
    let call = post("/api/v1/nodes/enroll", &made.token, &enroll);
    let enrolled: Enrolled = serde_json::from_slice(&connection.call(call, StatusCode::OK).await?)?;
    ensure!(enrolled.node == made.id, "enrolled as another node");
    Ok(Node {
        key,
        instance,
        from: address(number)?,
        invite: String::new(),
    })
}

/// Makes so many invites, spread evenly; answers how long it took.
pub(crate) async fn fill(
    target: &Target,
    nodes: Vec<Arc<Node>>,
    invites: usize,
) -> Result<(Vec<Arc<Node>>, Duration)> {
    let began = Instant::now();
    let (each, more) = (invites / nodes.len(), invites % nodes.len());
    ensure!(each > 0, "fewer invites than nodes");
    let queue = nodes.chunks(nodes.len().div_ceil(MAKERS)).enumerate();
    let per_maker = nodes.len().div_ceil(MAKERS);
    let made = queue.map(|(maker, part)| async move {
        let mut connection = target.connect(Ipv4Addr::LOCALHOST).await?;
        let mut firsts = Vec::with_capacity(part.len());
        for (at, node) in part.iter().enumerate() {
            let count = each + usize::from(maker * per_maker + at < more);
            firsts.push(fill_one(&mut connection, node, count).await?);
        }
        Ok::<_, anyhow::Error>(firsts)
    });
    let firsts: Vec<Vec<String>> = stream::iter(made).buffered(MAKERS).try_collect().await?;
    let filled = nodes
        .iter()
        .zip(firsts.into_iter().flatten())
        .map(|(node, invite)| {
            let (key, instance) = (node.key.clone(), node.instance.clone());
            Arc::new(Node {
                key,
                instance,
                from: node.from,
                invite,
            })
        });
    Ok((filled.collect(), began.elapsed()))
}

/// Makes a node's invites; answers the first one's id.
async fn fill_one(connection: &mut Connection, node: &Node, count: usize) -> Result<String> {
    let (mut left, mut first) = (count, None);
    while left > 0 {
        let count = left.min(MAX_COUNT as usize);
        let new = json!({
            "count": count,
            "label": "guest {n}",
            "limits": { "max_conns": 5, "max_proxies": 2, "max_clients": 1 },
        });
        let call = post("/api/v1/nodes/invites", &node.key, &new);
        let page: InvitePage =
            serde_json::from_slice(&connection.call(call, StatusCode::CREATED).await?)?;
        ensure!(
            page.items.len() == count,
            "{} invites, not {count}",
            page.items.len()
        );
        first = first.or_else(|| page.items.into_iter().next().map(|invite| invite.id));
        left -= count;
    }
    first.context("no invite")
}
