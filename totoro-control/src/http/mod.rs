//! HTTP: one file per resource. A handler reads, calls one use case and answers; it decides nothing.

mod about;
mod admin_nodes;
mod admin_secrets;
mod audit;
mod backup;
mod bans;
mod connection;
mod descriptors;
mod docs;
mod document;
mod forwarded;
mod frps;
mod health;
mod home;
mod incoming;
mod invites;
mod json;
mod lender;
mod metrics;
mod nodes;
mod oauth;
mod page;
mod problem;
mod public;
mod rate;
mod reply;
mod resolve;
mod route;
mod scopes;
mod seats;
mod server;
mod sessions;
mod sources;
mod stream;
mod tls;
mod watch;

use std::sync::Arc;

use warp::reply::Response;

pub use server::{Server, ServerError};
pub use tls::{Tls, TlsError, load as load_tls};

use crate::app::{App, Caller, Failure};
use incoming::Incoming;
use problem::ApiError;
use rate::Limiters;
use route::{Route, Routes};
use seats::Seats;

/// Streams and long polls that one node may have open: its daemon has one, and a lost one may linger.
const MAX_POLLS: usize = 4;

/// What handlers share.
struct Api {
    app: Arc<App>,
    limiters: Limiters,
    /// Open streams and long polls, by node.
    polls: Arc<Seats<String>>,
}

/// Whose routes: a node's key under `/nodes`, an admin's token under `/admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Node,
    Admin,
}

impl Api {
    fn new(app: Arc<App>) -> Self {
        Api {
            limiters: Limiters::new(app.config.rate),
            app,
            polls: Seats::new(MAX_POLLS),
        }
    }

    /// The caller, by the scope's kind of credential.
    fn caller(&self, scope: Scope, incoming: &Incoming) -> Result<Caller, ApiError> {
        let address = incoming.address();
        let text = incoming.bearer().unwrap_or_default();
        let caller = match scope {
            Scope::Node => self.app.node_caller(text, address, incoming.request_id()),
            Scope::Admin => {
                let need = incoming.need();
                self.app
                    .admin_caller(text, need, address, incoming.request_id())
            }
        };
        match caller {
            // The token itself is right: nobody is guessing.
            Err(failure @ Failure::OutOfScope(_)) => Err(failure.into()),
            caller => caller.map_err(|failure| self.wrong_key(incoming, failure)),
        }
    }

    /// Counts a wrong key and gives the failure on, or the lockout of who had too many.
    fn wrong_key(&self, incoming: &Incoming, failure: Failure) -> ApiError {
        match self.limiters.wrong_key.fail(incoming.address()) {
            Ok(()) => failure.into(),
            Err(limited) => limited,
        }
    }

    /// Counts a wrong code. Those of an address that is locked out end here: they cost no event.
    fn check_code(&self, incoming: &Incoming, code: &str) -> Result<(), ApiError> {
        if self.app.knows_code(code)? {
            return Ok(());
        }
        self.limiters.wrong_code.fail(incoming.address())
    }
}

/// All routes, for one address that serves everyone.
fn routes(api: &Arc<Api>) -> Routes {
    let v1 = [for_everyone(api), for_admins(api)];
    whole(api, v1, [for_people(api), metrics::guarded(api)])
}

/// All but the admins', where those have an address of their own.
fn public_routes(api: &Arc<Api>) -> Routes {
    whole(api, [for_everyone(api)], [for_people(api)])
}

/// The page, where the operator has one, and whether we are well.
fn for_people(api: &Arc<Api>) -> Route {
    match api.app.config.page {
        true => route::any_of([home::routes(api), health::routes(api)]),
        false => health::routes(api),
    }
}

/// The admins' alone.
fn admin_routes(api: &Arc<Api>) -> Routes {
    let address = api.app.config.admin_listen;
    let figures = match address.is_some_and(|at| at.ip().is_loopback()) {
        true => metrics::open(api),
        false => metrics::guarded(api),
    };
    whole(api, [for_admins(api)], [health::routes(api), figures])
}

/// Grouped by their first segments: warp tries routes one by one.
fn for_everyone(api: &Arc<Api>) -> Route {
    let node = route::any_of([
        watch::routes(api),
        nodes::routes(api),
        lender::routes(api),
        invites::routes(api, Scope::Node),
        bans::routes(api, Scope::Node),
        sessions::routes(api, Scope::Node),
        audit::routes(api, Scope::Node),
    ]);
    route::any_of([
        route::under("nodes", node),
        frps::routes(api),
        oauth::routes(api),
        resolve::routes(api),
        route::under("public", public::routes(api)),
    ])
}

fn for_admins(api: &Arc<Api>) -> Route {
    let admin = route::any_of([
        admin_nodes::routes(api),
        admin_secrets::routes(api),
        invites::routes(api, Scope::Admin),
        bans::routes(api, Scope::Admin),
        sessions::routes(api, Scope::Admin),
        audit::routes(api, Scope::Admin),
        backup::routes(api),
    ]);
    route::under("admin", admin)
}

/// All that one address serves, with its description, and an answer for all that it does not serve.
fn whole<const N: usize, const M: usize>(
    api: &Arc<Api>,
    v1: [Route; N],
    others: [Route; M],
) -> Routes {
    let (described, pages) = docs::routes(api);
    let v1 = route::any_of([route::any_of(v1), described]);
    let all = route::any_of([route::v1(v1), route::any_of(others)]);
    pages.write(all.served());
    Routes::new(all)
}

/// A handler's result.
type Answer = Result<Response, ApiError>;
