//! Use cases on a store of their own, where the test needs another time or another number of nodes
//! than a running server has.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;
use totoro_api::Reason;
use totoro_api::wire::ban::NewBan;
use totoro_api::wire::event::EventBatch;
use totoro_api::wire::invite::{Invite, NewInvite};
use totoro_api::wire::node::NewNode;
use totoro_api::wire::push::Applied;

use super::idempotency::Idempotency;
use super::invite_change::IfMatch;
use super::{App, Caller, Failure, Reach};
use crate::audit::{Author, Trail};
use crate::config::Config;
use crate::keys::{KeyRing, ServerSecret};
use crate::push;
use crate::records::{Change, Generation, IdempotencyRecord, NodeRecord, key};
use crate::store::{Commit, Op, SledStore, Store, Tx, names, read, records};

/// An app in a directory of its own.
pub(super) struct Lab {
    pub(super) app: Arc<App>,
    pub(super) admin: Caller,
    _dir: tempfile::TempDir,
}

impl Lab {
    pub(super) async fn new() -> Self {
        Self::over(|store| Arc::new(store)).await
    }

    /// One whose store is seen through another.
    pub(super) async fn over(seen: impl FnOnce(SledStore) -> Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(&dir.path().join("data"), 4 << 20).unwrap();
        let mut tx = Tx::new(&store);
        tx.put(key::GENERATION, &Generation { generation: 7 })
            .unwrap();
        store.commit(tx.into_commit()).await.unwrap();
        let ring = KeyRing::load(dir.path(), 0).unwrap();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), "http://[::1]".to_owned());
        let segments = dir.path().join("data/audit");
        let trail = Trail::open(seen(store), &segments, config.audit);
        let trail = trail.await.unwrap();
        // Nobody is at the nodes' addresses.
        config.listing.probe = false;
        let app = App::start(config, trail, ServerSecret::generate(), ring).unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        let admin = Caller {
            reach: Reach::All,
            name: "test".to_owned(),
            author: Author::remote("admin", "test", address, "r-1"),
        };
        Lab {
            app,
            admin,
            _dir: dir,
        }
    }

    pub(super) async fn node(&self, name: &str) -> String {
        self.app
            .create_node(&self.admin, new_node(name), None)
            .await
            .unwrap()
            .id
    }

    /// The node itself as a caller.
    fn caller(&self, node: &str) -> Caller {
        Caller {
            reach: Reach::Node(node.to_owned()),
            ..self.admin.clone()
        }
    }

    pub(super) async fn invite(&self, node: &str, key: &str) -> Invite {
        let new = NewInvite {
            node: Some(node.to_owned()),
            ..NewInvite::default()
        };
        let request = Idempotency {
            key,
            request: "create",
        };
        let made = self.app.create_invite(&self.admin, &new, Some(request));
        made.await.unwrap()
    }

    /// Ends every remembered request, as a day does.
    pub(super) async fn a_day_later(&self) {
        let store = &*self.app.store;
        let mut tx = Tx::new(store);
        for (hash, found) in records::<IdempotencyRecord>(store, "idempotency/").unwrap() {
            let expires_at = 1;
            let over = IdempotencyRecord {
                expires_at,
                ..found.value
            };
            tx.put(key::idempotency(&hash), &over).unwrap();
            tx.put(key::idempotency_end(expires_at, &hash), &())
                .unwrap();
        }
        store.commit(tx.into_commit()).await.unwrap();
        self.app.forget_requests().await.unwrap();
        assert!(names(store, "idempotency/").unwrap().is_empty());
    }

    fn usage(&self, code: &str) -> Result<String, Reason> {
        let usage = self.app.usage(code);
        usage
            .map(|usage| usage.invite)
            .map_err(|failure| failure.refusal().expect("a refusal").reason)
    }

    fn head(&self, node: &str) -> u64 {
        self.app.policy_revision(node).unwrap().rev
    }
}

fn new_node(name: &str) -> NewNode {
    let new = json!({
        "name": name, "server_addr": ["192.0.2.1:7000"], "pool": { "tcp": ["20000-20009"] },
    });
    serde_json::from_value(new).unwrap()
}

#[tokio::test]
async fn a_rotated_code_never_comes_back() {
    let lab = Lab::new().await;
    let node = lab.node("n1").await;
    let first = lab.invite(&node, "mei").await;
    let leaked = first.code.unwrap();
    let rotated = lab
        .app
        .rotate_invite(&lab.admin, &first.id, IfMatch::Any, None);
    rotated.await.unwrap();
    lab.a_day_later().await;
    let second = lab.invite(&node, "mei").await;
    assert_ne!(second.code.as_deref(), Some(leaked.as_str()));
    assert_eq!(lab.usage(&leaked), Err(Reason::InviteUnknown));
    assert_eq!(lab.usage(&second.code.unwrap()), Ok(second.id));
}

#[tokio::test]
async fn a_token_of_the_same_request_a_day_later_is_another() {
    let lab = Lab::new().await;
    let node = lab.node("n1").await;
    let token = || async {
        let (key, request) = ("mei", "token");
        let request = Some(Idempotency { key, request });
        let made = lab.app.new_enrolment(&lab.admin, &node, request);
        made.await.unwrap()
    };
    let first = token().await;
    assert_eq!(token().await, first, "a repeat");
    lab.a_day_later().await;
    assert_ne!(token().await.token, first.token);
    let kept = names(&*lab.app.store, "enrolment/").unwrap();
    assert_eq!(kept.len(), 1, "a newer token voids the older");
}

#[tokio::test]
async fn all_nodes_are_told_once_and_after_a_crash_too() {
    let lab = Lab::new().await;
    // More than one commit holds of them, as records alone.
    let mut ids = Vec::new();
    for chunk in 0..11 {
        let mut tx = Tx::new(&*lab.app.store);
        for index in 0..1000 {
            let id = format!("n-{chunk}-{index}");
            let record: NodeRecord = serde_json::from_value(json!({
                "id": id, "name": id, "visibility": "private", "server_addr": [], "pool": {},
                "defaults": {}, "public_limits": {}, "public_max": {}, "region": "", "isp": "",
                "tags": [], "abuse_contact": "", "draining": false, "disabled": false,
                "instance": "", "key_used": false, "created_at": 0,
            }))
            .unwrap();
            tx.put(key::node(&id), &record).unwrap();
            ids.push(id);
        }
        lab.app.store.commit(tx.into_commit()).await.unwrap();
    }
    let told = || ids.iter().map(|id| lab.head(id)).min().unwrap();
    assert_eq!(told(), 0);
    let ban = NewBan {
        node: None,
        prefix: "192.0.2.0/24".to_owned(),
        until: None,
        note: String::new(),
    };
    lab.app.add_ban(&lab.admin, &ban, None).await.unwrap();
    let once = told();
    assert!(once > 0);
    lab.app.tell_bans().await.unwrap();
    assert_eq!(told(), once, "nothing is left to tell");
    // As if it had ended before the last node was told.
    let mark = Op::Put(key::BANS_UNTOLD.as_bytes().to_vec(), b"null".to_vec());
    let ops = vec![mark];
    let expect = vec![];
    lab.app.store.commit(Commit { expect, ops }).await.unwrap();
    lab.app.tell_bans().await.unwrap();
    let twice = told();
    assert!(twice > once);
    // Keys likewise: what is remembered is which of them all were told of.
    lab.app.renew_keys().await.unwrap();
    let keys = told();
    assert!(keys > twice);
    lab.app.renew_keys().await.unwrap();
    assert_eq!(told(), keys);
    let forgotten = Op::Delete(key::KEYS_TOLD.as_bytes().to_vec());
    let ops = vec![forgotten];
    let expect = vec![];
    lab.app.store.commit(Commit { expect, ops }).await.unwrap();
    lab.app.renew_keys().await.unwrap();
    assert!(told() > keys);
}

#[tokio::test]
async fn a_policy_log_keeps_what_its_node_may_ask_for() {
    let lab = Lab::new().await;
    let node = lab.node("n1").await;
    let touch = || async {
        let touched = lab
            .app
            .transact(|tx| Ok(push::touch(tx, &node, &Change::Node)?));
        touched.await.unwrap().1
    };
    let trim = |applied| {
        let (lab, node) = (&lab, &node);
        async move {
            let store = &*lab.app.store;
            let trimmed = lab
                .app
                .transact(|tx| Ok(push::trim(store, tx, node, applied)?));
            trimmed.await.unwrap();
            let log = records::<Change>(store, &key::policy_log(node)).unwrap();
            log.into_iter()
                .map(|(_, entry)| entry.revision)
                .collect::<Vec<_>>()
        }
    };
    let revisions = [touch().await, touch().await, touch().await];
    assert_eq!(trim(0).await.len(), 4, "it has applied nothing");
    assert_eq!(trim(revisions[1]).await, revisions[1..]);
    assert_eq!(trim(u64::MAX).await, revisions[2..], "its own place stays");
    for _ in 0..600 {
        touch().await;
    }
    assert_eq!(trim(0).await.len(), 512);
}

#[tokio::test]
async fn what_a_node_leaves_behind_is_bounded() {
    let lab = Lab::new().await;
    let node = lab.node("n1").await;
    let caller = lab.caller(&node);
    let send = |spool: u32, seq: u64| {
        let batch: EventBatch = serde_json::from_value(json!({
            "spool": format!("{spool:032x}"),
            "events": [{ "seq": seq, "at_ms": 0, "boot": "b", "kind": "x.y" }],
        }))
        .unwrap();
        let (app, caller) = (&lab.app, &caller);
        async move { app.accept_events(caller, &batch).await.unwrap().seq }
    };
    for spool in 0..20 {
        send(spool, 1).await;
        // The first one goes on being used.
        send(0, u64::from(spool) + 1).await;
    }
    let spools = names(&*lab.app.store, &key::spools_of(&node)).unwrap();
    assert_eq!(spools.len(), 16);
    assert!(spools.contains(&format!("{:032x}", 0)));

    // The largest report of what it has applied fits.
    let applied = Applied {
        revision: lab.app.policy_revision(&node).unwrap(),
        keys: vec!["k".repeat(64); 16],
        error: Some("\u{1}".repeat(1000)),
    };
    lab.app.applied(&caller, &applied).await.unwrap();
    let too_many = Applied {
        keys: vec!["k".repeat(64); 17],
        ..applied
    };
    let refused = lab.app.applied(&caller, &too_many).await;
    assert!(matches!(refused, Err(Failure::Refused(_))));
}

#[tokio::test]
async fn a_ban_that_is_over_is_forgotten() {
    let lab = Lab::new().await;
    let node = lab.node("n1").await;
    let ban = |until: Option<&str>| NewBan {
        node: Some(node.clone()),
        prefix: "192.0.2.0/24".to_owned(),
        until: until.map(str::to_owned),
        note: String::new(),
    };
    let past = "2020-01-01T00:00:00Z";
    for until in [Some(past), Some("2999-01-01T00:00:00Z"), None] {
        lab.app
            .add_ban(&lab.admin, &ban(until), None)
            .await
            .unwrap();
    }
    lab.app.forget_bans().await.unwrap();
    let prefix = key::bans_of(&node);
    assert_eq!(names(&*lab.app.store, &prefix).unwrap().len(), 2);
    let banned = |address: [u8; 4]| lab.app.is_banned(&node, IpAddr::from(address)).unwrap();
    assert!(banned([192, 0, 2, 9]) && !banned([198, 51, 100, 1]));
    for id in names(&*lab.app.store, &prefix).unwrap() {
        lab.app
            .lift_ban(&lab.admin, Some(&node), &id, None)
            .await
            .unwrap();
    }
    assert!(!banned([192, 0, 2, 9]), "the index follows");
    assert!(names(&*lab.app.store, key::BAN_ENDS).unwrap().is_empty());
    assert!(
        read::<()>(&*lab.app.store, key::BANS_UNTOLD)
            .unwrap()
            .is_none()
    );
}
