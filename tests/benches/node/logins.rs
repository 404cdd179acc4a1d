//! Sessions as frps would have them: each with a connection of its own to frps's port, from an address of
//! its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use totoro_report::{Better, Figure, Goal, Run};

use crate::client::Request;
use crate::daemons::{Daemon, Daemons, FIRST, FRPS, PLUGIN, Tenant, pool, serving};
use crate::frps::{Admin, KINDS, Proxy};
use crate::series::Series;

/// Sessions that log in again and again, and as many that open proxies.
pub(crate) const SESSIONS: usize = 1000;
/// Ports between the one that a session opens and closes, and the next session's.
const PORTS: usize = 33;
/// Requests at once where speed is not the question.
const AT_ONCE: usize = 32;
/// What takes longer has failed: as long as a decision may take (`decide` in `totoro-node/src/plugin/server.rs`),
/// and half of what a frpc waits for its Login's answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Logins that must have been asked in a second, where it is to be 1,000.
const ASKED: f64 = 990.0;

/// Logins that open a session each, by tenants that have none; and their connections.
pub(crate) struct First {
    pub(crate) bodies: Vec<Value>,
    /// While they are open, nobody has lost a session.
    pub(crate) connections: Vec<TcpStream>,
}

/// One session.
pub(crate) struct Session {
    tenant: Tenant,
    address: String,
    run_id: String,
    metas: Value,
    _connection: TcpStream,
}

pub(crate) struct Logins {
    /// The first ones log in again, those behind them open proxies.
    sessions: Vec<Session>,
    authorization: String,
    /// Where they are connected to.
    _frps: Daemon,
}

impl Logins {
    /// Logs these in.
    pub(crate) async fn open(daemons: &Daemons, tenants: &[Tenant]) -> Logins {
        let frps = serving(&["--serve-frps"]).0;
        let chosen: Vec<&Tenant> = tenants.iter().collect();
        let tickets = daemons.tickets(&chosen).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let opened = chosen
            .iter()
            .zip(tickets)
            .enumerate()
            .map(|(number, (tenant, ticket))| {
                let (client, authorization) = (client.clone(), daemons.authorization.clone());
                async move { Session::open(number, tenant, &ticket, &client, &authorization).await }
            });
        let sessions = futures_util::stream::iter(opened).buffered(AT_ONCE);
        Logins {
            sessions: sessions.collect().await,
            authorization: daemons.authorization.clone(),
            _frps: frps,
        }
    }

    /// The first Logins of tenants, each over a connection of its own from an address of its own, of which so many
    /// are taken.
    pub(crate) async fn first(&self, daemons: &Daemons, tenants: &[Tenant], taken: usize) -> First {
        let tickets = daemons.tickets(&tenants.iter().collect::<Vec<_>>()).await;
        let mut first = First {
            bodies: Vec::new(),
            connections: Vec::new(),
        };
        for (number, (tenant, ticket)) in tenants.iter().zip(tickets).enumerate() {
            let (connection, address) = connect(2, taken + number).await;
            let body = login(&tenant.invite, &ticket, "", &address);
            first.bodies.push(body);
            first.connections.push(connection);
        }
        first
    }

    /// So many Logins that go on with a session, each with a ticket of its own: of all sessions in turn.
    pub(crate) async fn bodies(&self, daemons: &Daemons, count: usize) -> Vec<Value> {
        let tenants: Vec<&Tenant> = (0..count)
            .map(|number| &self.sessions[number % SESSIONS].tenant)
            .collect();
        let tickets = daemons.tickets(&tenants).await;
        let sessions = self.sessions.iter().take(SESSIONS).cycle();
        sessions
            .zip(tickets)
            .map(|(session, ticket)| {
                login(
                    &session.tenant.invite,
                    &ticket,
                    &session.run_id,
                    &session.address,
                )
            })
            .collect()
    }

    /// A request to a server like `http://127.0.0.1:80`, as frps makes it.
    pub(crate) fn bytes(&self, server: &str, op: &str, content: &Value) -> Vec<u8> {
        let body = json!({ "version": "0.1.0", "op": op, "content": content }).to_string();
        let (host, length) = (server.trim_start_matches("http://"), body.len());
        format!(
            "POST /frps?version=0.1.0&op={op} HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}",
            self.authorization
        )
        .into_bytes()
    }

    /// The opening of a proxy and its end, of all sessions in turn; each client has its own sessions, so
    /// that none asks more often than one may. And how many requests each client has.
    pub(crate) fn proxies(&self, server: &str, clients: usize) -> (Vec<Vec<u8>>, usize) {
        // Whose first port is one of the pool's.
        let each = (32_768 / PORTS) / clients;
        let sessions = self.sessions.iter().skip(SESSIONS);
        let sessions = sessions.enumerate().take(each * clients);
        let pair = |(number, session): (usize, &Session)| {
            let port = usize::from(FIRST) + number * PORTS;
            let open = session.new_proxy("tcp", port);
            let close = json!({ "user": open["user"], "proxy_name": open["proxy_name"] });
            [
                self.bytes(server, "NewProxy", &open),
                self.bytes(server, "CloseProxy", &close),
            ]
        };
        (sessions.flat_map(pair).collect(), 2 * each)
    }

    /// 1,000 logins in each second, whatever the answers take; none may fail, or take longer than it may.
    pub(crate) async fn sustained(&self, daemons: &Daemons, seconds: usize, run: &mut Run) {
        const AT_ONCE: usize = 10;
        let bodies = self.bodies(daemons, 1000 * seconds).await;
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        let client = Arc::new(client.build().unwrap());
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let (began, mut asked) = (Instant::now(), Vec::new());
        for together in bodies.chunks(AT_ONCE) {
            tick.tick().await;
            for content in together {
                let body = json!({ "version": "0.1.0", "op": "Login", "content": content });
                let request = client
                    .post(format!("{PLUGIN}/frps?version=0.1.0&op=Login"))
                    .header("authorization", &self.authorization)
                    .json(&body);
                let due = Instant::now();
                asked.push(tokio::spawn(async move {
                    let answer = request.send().await.ok()?.text().await.ok()?;
                    answer.contains("\"reject\":false").then(|| due.elapsed())
                }));
            }
        }
        let (sent, all) = (began.elapsed(), asked.len());
        let mut took = Vec::new();
        for one in asked {
            took.extend(one.await.unwrap());
        }
        let failed = all - took.len();
        let part = format!("1,000 Logins in each second, for {seconds} s");
        let mut add = |name, unit, better, is, goal| {
            let figure = Figure::new(&part, name, unit, better, vec![is]);
            run.add(match goal {
                Some(goal) => figure.goal(goal),
                None => figure,
            });
        };
        let none = Some(Goal::at_most(0.0));
        add("failed", "", Better::Less, failed as f64, none);
        let rate = all as f64 / sent.as_secs_f64();
        // None fails of those that were not asked.
        let goal = Some(Goal::at_least(ASKED));
        add("asked", "/s", Better::Neither, rate, goal);
        // Where all failed there is nothing to time, and the goal is missed.
        if !took.is_empty() {
            let series = Series::new(took, sent);
            add("p50", "ms", Better::Less, series.p50, None);
            add("p99", "ms", Better::Less, series.p99, None);
        }
    }

    /// Takes so many leases, of all sessions in turn, TCP and UDP in turn.
    pub(crate) async fn lease(&self, count: usize) -> Series {
        let one = |number| {
            let (session, protocol, port) = self.leased(number);
            self.bytes(PLUGIN, "NewProxy", &session.new_proxy(protocol, port))
        };
        let all = Request::once(PLUGIN, (0..count).map(one).collect());
        all.measure(AT_ONCE, Duration::MAX, None).await
    }

    /// Whose a lease is, and on which port.
    fn leased(&self, number: usize) -> (&Session, &'static str, usize) {
        let session = &self.sessions[number % self.sessions.len()];
        let port = usize::from(FIRST) + number / 2;
        (session, KINDS[number % 2], port)
    }

    /// From now on frps's admin API answers, and has a proxy for each of so many leases.
    pub(crate) fn answers(&self, daemons: &Daemons, count: usize) -> Admin {
        let leases = (0..count).map(|number| self.leased(number));
        let all: Vec<_> = leases
            .map(|(session, protocol, port)| {
                (session, protocol, port, session.name(protocol, port))
            })
            .collect();
        let of = |kind| {
            let these = all.iter().filter(|(_, protocol, ..)| *protocol == kind);
            these
                .map(|(session, _, port, name)| Proxy {
                    name,
                    user: &session.tenant.invite,
                    run_id: &session.run_id,
                    port: *port,
                })
                .collect()
        };
        Admin::start(daemons.dir(), &pool(), KINDS.map(of))
    }

    /// A request of the node's, of these bodies, each once.
    pub(crate) fn once(&self, server: &str, bodies: &[Value]) -> Request {
        let bytes = bodies.iter().map(|body| self.bytes(server, "Login", body));
        Request::once(server, bytes.collect())
    }

    /// The same over and over, for one who remembers none.
    pub(crate) fn again(&self, server: &str, bodies: &[Value]) -> Request {
        let bytes = bodies.iter().map(|body| self.bytes(server, "Login", body));
        Request::again(server, bytes.collect())
    }
}

impl Session {
    async fn open(
        number: usize,
        tenant: &Tenant,
        ticket: &str,
        client: &reqwest::Client,
        authorization: &str,
    ) -> Session {
        let (connection, address) = connect(1, number).await;
        let content = login(&tenant.invite, ticket, "", &address);
        let answer = ask(client, authorization, "Login", content).await;
        let content = &answer["content"];
        Session {
            tenant: tenant.clone(),
            address,
            run_id: content["run_id"].as_str().unwrap().to_owned(),
            metas: content["metas"].clone(),
            _connection: connection,
        }
    }

    /// What frps calls a proxy of this session's.
    fn name(&self, protocol: &str, port: usize) -> String {
        format!("{}.{protocol}{port}", self.tenant.invite)
    }

    /// A proxy of this session's.
    fn new_proxy(&self, protocol: &str, port: usize) -> Value {
        let invite = &self.tenant.invite;
        json!({
            "user": { "user": invite, "metas": self.metas, "run_id": self.run_id },
            "proxy_name": self.name(protocol, port),
            "proxy_type": protocol,
            "remote_port": port,
            "use_encryption": false,
            "metas": null,
        })
    }
}

/// A connection to frps's port from the address of this number in a network, and its address.
async fn connect(network: u8, number: usize) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    socket
        .bind((Ipv4Addr::new(127, network, high, low), 0).into())
        .unwrap();
    let frps = (Ipv4Addr::LOCALHOST, FRPS).into();
    let connection = socket.connect(frps).await.unwrap();
    let address = connection.local_addr().unwrap().to_string();
    (connection, address)
}

fn login(invite: &str, ticket: &str, run_id: &str, address: &str) -> Value {
    json!({
        "version": "0.70.1", "hostname": "", "os": "linux", "arch": "amd64", "user": invite,
        "privilege_key": ticket, "timestamp": 0, "run_id": run_id, "metas": null, "client_id": "",
        "client_spec": {}, "pool_count": 1, "client_address": address,
    })
}

/// Asks once; a refusal ends the bench.
async fn ask(client: &reqwest::Client, authorization: &str, op: &str, content: Value) -> Value {
    let body = json!({ "version": "0.1.0", "op": op, "content": content });
    let request = client
        .post(format!("{PLUGIN}/frps?version=0.1.0&op={op}"))
        .header("authorization", authorization);
    let text = request
        .json(&body)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert!(answer["reject"] == false, "{op}: {text}");
    answer
}
