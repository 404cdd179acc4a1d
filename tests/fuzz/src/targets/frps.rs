//! frps's list of its proxies, as it comes in pieces: frpc chooses the names in it, and most of the rest.

use serde::Deserialize;
use serde_json::json;
use totoro_api::ports::Protocol;
use totoro_node::frps::answer::{Answer, Proxy};
use totoro_node::session::Proxied;

use crate::Target;

/// The body of `/api/proxy/tcp`.
pub(crate) const TARGET: Target = Target {
    name: "frps-proxies",
    run,
    seeds,
};

/// The same, read in one go by serde alone.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    proxies: Vec<Proxy<'a>>,
}

impl Whole<'_> {
    fn online(self) -> Vec<(String, Proxied)> {
        let all = self.proxies.into_iter();
        all.filter_map(|proxy| proxy.online(Protocol::Tcp))
            .collect()
    }
}

/// What is read in pieces of so many bytes.
fn read(data: &[u8], piece: usize) -> Option<Vec<(String, Proxied)>> {
    let mut answer = Answer::new(Protocol::Tcp);
    let mut online = Vec::new();
    for piece in data.chunks(piece) {
        online.extend(answer.take(piece).ok()?);
    }
    answer.end().ok()?;
    Some(online)
}

fn run(data: &[u8]) {
    let read_whole = read(data, data.len().max(1));
    for piece in [1, 3, 64] {
        assert_eq!(read(data, piece), read_whole, "pieces of {piece}");
    }
    if let Ok(whole) = serde_json::from_slice::<Whole<'_>>(data) {
        assert_eq!(read_whole, Some(whole.online()), "as serde reads it");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    // As frps 0.70.1 answers.
    let online = json!({
        "name": "inv.a", "conf": {"name": "inv.a", "type": "tcp", "remotePort": 20001, "plugin": null},
        "user": "inv", "clientID": "r1", "todayTrafficIn": 1, "curConns": -1, "status": "online",
    });
    let offline =
        json!({"name": "inv.b", "conf": null, "status": "offline", "lastCloseTime": "11-30"});
    let odd = json!({"status": "online", "name": "\u{e4}\"<\n"});
    let of = |body: serde_json::Value| body.to_string().into_bytes();
    vec![
        of(json!({"proxies": [online, offline, odd]})),
        of(json!({"more": {"proxies": [{"a": [null, true]}]}, "proxies": [], "total": -12.5e1})),
        br#" { "\u0070roxies" : [ {"name":"a","status":"\u006fnline"} , {"name":""}] , "at":7 } "#
            .to_vec(),
    ]
}
