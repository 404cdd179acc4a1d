//! `totoro serve`: tunnels from a page in the browser, and by an API of the same shape for this user's
//! programs. It listens on loopback, answers this user alone, and nobody else's page.

mod api;
mod connections;
mod guard;
pub mod listeners;
mod login;
mod looked;
mod pages;
mod saved;
mod server;
mod views;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

pub use connections::{Connection, Connections};
pub use saved::{Asked, Saved};

use crate::control::Control;
use crate::error::Error;
use crate::frpc::Frpc;
use crate::lang::Lang;
use crate::nodes::{Ranked, measured};
use crate::private::PrivateDir;
use guard::{Guard, Refused};

/// The largest body, bytes: a pasted frpc.toml fits.
const BODY: usize = 64 << 10;
/// How old the measured list of nodes may be.
const LIST_AGE: Duration = Duration::from_secs(30);
/// The file with the token of this run.
const TOKEN: &str = "serve.token";

/// How it serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names beside addresses and `localhost` that it is asked by.
    pub names: Vec<String>,
    /// The control plane, where a request names none.
    pub control: Option<String>,
    /// Whether codes may be sent over plain HTTP.
    pub insecure_http: bool,
    /// What runs tunnels.
    pub frpc: Frpc,
}

/// What handlers share.
pub(crate) struct Serve {
    guard: Guard,
    options: Options,
    connections: Connections,
    looked: looked::Looked,
    nodes: tokio::sync::Mutex<Option<(Instant, Vec<Ranked>)>>,
}

/// A server that listens.
pub struct Server {
    serve: Arc<Serve>,
    listener: tokio::net::TcpListener,
    dir: PrivateDir,
}

/// Whose request it is.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

impl Server {
    /// Listens; what was remembered waits until somebody says so.
    ///
    /// # Errors
    /// The address can't be had, or a private file not be used.
    pub async fn new(options: Options, saved: Option<Saved>) -> Result<Self, Error> {
        let fail = |error: std::io::Error| Error::file(options.listen.to_string(), error);
        let listener = tokio::net::TcpListener::bind(options.listen)
            .await
            .map_err(fail)?;
        let at = listener.local_addr().map_err(fail)?;
        let guard = Guard::new(at, options.names.clone());
        let dir = PrivateDir::new()?;
        dir.write(TOKEN, guard.token())?;
        let serve = Serve {
            guard,
            connections: Connections::new(options.frpc.clone(), saved)?,
            options,
            looked: looked::Looked::default(),
            nodes: tokio::sync::Mutex::default(),
        };
        Ok(Server {
            serve: Arc::new(serve),
            listener,
            dir,
        })
    }

    /// Its page's address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.serve.guard.at)
    }

    /// The file with the token that programs need, 0600, for as long as this runs.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join(TOKEN)
    }

    /// So many tunnels are remembered from before.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.serve.connections.before().len()
    }

    /// Opens those; why some could not be.
    pub async fn restore(&self, lang: Lang) -> Vec<Error> {
        let failed = self.serve.connections.restore(lang).await;
        failed.into_iter().map(|(_, error)| error).collect()
    }

    /// Serves until `end` says so; then all tunnels are ended.
    pub async fn run(self, end: impl Future<Output = ()>) {
        tokio::select! {
            () = server::accept(self.listener, router(&self.serve)) => {}
            () = end => {}
        }
        self.serve.connections.end().await;
    }
}

impl Serve {
    /// The control plane that a request names, or the one that we were told.
    fn control(&self, named: Option<&str>) -> Result<Control, Error> {
        let named = named.filter(|named| !named.trim().is_empty());
        let url = named.or(self.options.control.as_deref());
        Control::new(url.ok_or(Error::NoControl)?, self.options.insecure_http)
    }

    /// The public nodes, measured a moment ago at most.
    async fn measured(&self) -> Result<Vec<Ranked>, Error> {
        let mut kept = self.nodes.lock().await;
        if let Some((at, nodes)) = &*kept
            && at.elapsed() < LIST_AGE
        {
            return Ok(nodes.clone());
        }
        let nodes = measured(&self.control(None)?).await?;
        *kept = Some((Instant::now(), nodes.clone()));
        Ok(nodes)
    }
}

fn router(serve: &Arc<Serve>) -> Router {
    Router::new()
        .route("/", get(pages::home))
        .route("/tunnels", get(pages::tunnels))
        .route("/nodes", get(pages::nodes))
        .route("/look", post(pages::look))
        .route("/connect", post(pages::connect))
        .route("/stop", post(pages::stop))
        .route("/restore", post(pages::restore))
        .route("/qr/{id}/{proxy}", get(pages::qr))
        .route("/api/v1/frp/connect", post(api::connect))
        .route("/api/v1/frp/connections", get(api::list))
        .route(
            "/api/v1/frp/connections/{id}",
            get(api::show).delete(api::stop),
        )
        .route("/api/v1/frp/events", get(api::events))
        .layer(from_fn_with_state(Arc::clone(serve), guarded))
        // Asked before there is a cookie; who may ask is looked at there.
        .route("/login", get(login::form).post(login::logging_in))
        .layer(from_fn(hardened))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Arc::clone(serve))
}

/// Lets a request through, or says why not.
async fn guarded(
    State(serve): State<Arc<Serve>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let checked = serve.guard.check(request.method(), request.headers(), peer);
    let is_page = !request.uri().path().starts_with("/api/");
    match checked {
        Ok(()) => next.run(request).await,
        Err(Refused::Stranger) if is_page => {
            (StatusCode::SEE_OTHER, [(header::LOCATION, "/login")]).into_response()
        }
        Err(refused) => no(refused),
    }
}

fn no(refused: Refused) -> Response {
    let text = match refused {
        Refused::Host => {
            "This is not the name of this page: use its address, or start it with --name NAME.\n"
        }
        Refused::Origin => "Another page may not ask here.\n",
        Refused::Stranger => {
            "This needs the token of this run as a bearer: totoro serve says in which file it is.\n"
        }
    };
    (StatusCode::FORBIDDEN, text).into_response()
}

/// The pages' policy; its hashes are made once.
static POLICY: LazyLock<Option<HeaderValue>> =
    LazyLock::new(|| HeaderValue::from_str(&totoro_web::policy(Some(views::SCRIPT))).ok());

/// Has browsers keep to what a page is for, by the headers of every answer.
async fn hardened(
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Over plain HTTP browsers heed it on loopback alone, and complain elsewhere.
    if peer.ip().to_canonical().is_loopback() {
        let name = HeaderName::from_static("cross-origin-opener-policy");
        headers.insert(name, HeaderValue::from_static("same-origin"));
    }
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY)
        && let Some(policy) = &*POLICY
    {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}
