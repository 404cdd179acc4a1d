//! The accept loop: warp 0.4 has none that caps connections, speaks TLS, bounds headers in time and
//! ends gracefully.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};

use super::route::Routes;
use super::seats::Seats;
use super::sources::source;
use super::tls::{Tls, TlsError};
use super::{Api, admin_routes, connection, descriptors, forwarded, public_routes, routes};
use crate::app::App;

/// How long running requests get when the process is asked to end.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long to rest when the system has no descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted: with the usual 128 a burst of clients would lose its
/// handshakes and try again seconds later. The system may allow less (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// How often idle addresses are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Connections to the admins' own address at most. They are apart from everyone else's, so that a
/// flood there does not lock the operator out.
const ADMIN_CONNECTIONS: usize = 64;

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound server.
pub struct Server {
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
    main: Bound,
    admin: Option<Bound>,
}

/// Where it listens, and what is spoken there.
struct Bound {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Bound {
    async fn new(address: SocketAddr, tls: Option<Arc<Tls>>) -> Result<Self, ServerError> {
        let listener = listen(address).map_err(|source| ServerError::Listen { address, source })?;
        Ok(Bound { listener, tls })
    }

    fn url(&self) -> std::io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }
}

/// Listens, with a queue that takes a burst.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart need not wait for connections that are still closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Server {
    /// Binds the configured addresses.
    ///
    /// # Errors
    /// When it cannot, or certificate and key cannot be used.
    pub async fn bind(app: Arc<App>) -> Result<Self, ServerError> {
        let config = &app.config;
        let tls = config.tls.clone().map(Tls::new).transpose()?;
        let main = Bound::new(config.listen, tls.clone()).await?;
        let admin = match config.admin_listen {
            Some(address) => {
                let tls = tls.clone().filter(|_| config.admin_has_tls());
                Some(Bound::new(address, tls).await?)
            }
            None => None,
        };
        Ok(Server {
            app,
            tls,
            main,
            admin,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn url(&self) -> std::io::Result<String> {
        self.main.url()
    }

    /// Where it listens for admins alone.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn admin_url(&self) -> std::io::Result<Option<String>> {
        self.admin.as_ref().map(Bound::url).transpose()
    }

    /// Its certificate and key, where there are any.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Serves until the app is asked to stop; then finishes what runs, within a deadline.
    pub async fn run(self) {
        let Server {
            app, main, admin, ..
        } = self;
        let api = Arc::new(Api::new(Arc::clone(&app)));
        let forgetting = tokio::spawn(forget_now_and_then(Arc::clone(&api)));
        let door = |bound, routes, most| Door {
            app: Arc::clone(&app),
            bound,
            routes,
            permits: Arc::new(Semaphore::new(most)),
            seats: Seats::new(app.config.connections_per_address as usize),
        };
        let admins = admin.as_ref().map_or(0, |_| ADMIN_CONNECTIONS);
        let most = descriptors::for_connections(app.config.max_connections as usize, admins);
        match admin {
            None => door(main, routes(&api), most).run(app.stopping()).await,
            Some(admin) => {
                let main = door(main, public_routes(&api), most);
                let admin = door(admin, admin_routes(&api), ADMIN_CONNECTIONS);
                tokio::join!(main.run(app.stopping()), admin.run(app.stopping()));
            }
        }
        forgetting.abort();
    }
}

/// One address, what is served there, and how many may be inside.
struct Door {
    app: Arc<App>,
    bound: Bound,
    routes: Routes,
    permits: Arc<Semaphore>,
    seats: Arc<Seats<IpNet>>,
}

impl Door {
    async fn run(self, mut stopping: watch::Receiver<bool>) {
        let Bound { listener, tls } = self.bound;
        let graceful = GracefulShutdown::new();
        loop {
            // The permit comes first: past the cap connections wait in the kernel's backlog.
            let next = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                _ = stopping.wait_for(|&stop| stop) => break,
            };
            match (permit, accepted) {
                (Ok(permit), Ok((stream, peer))) => {
                    // A trusted proxy brings many clients.
                    let proxied =
                        forwarded::is_trusted(peer.ip(), &self.app.config.trusted_proxies);
                    let seat = self.seats.take(source(peer.ip()));
                    if seat.is_none() && !proxied {
                        tracing::debug!(%peer, "refused: too many connections of one address");
                        continue;
                    }
                    let (routes, watcher) = (self.routes.clone(), graceful.watcher());
                    let (app, tls) = (Arc::clone(&self.app), tls.clone());
                    tokio::spawn(async move {
                        connection::serve(stream, peer, tls, routes, watcher, app).await;
                        drop((permit, seat));
                    });
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
                (Err(_), _) => break,
            }
        }
        drop(listener);
        if tokio::time::timeout(DRAIN_TIME, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some requests did not end in time");
        }
    }
}

async fn forget_now_and_then(api: Arc<Api>) {
    loop {
        tokio::time::sleep(FORGET).await;
        api.limiters.forget();
    }
}
