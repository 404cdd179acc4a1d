//! HTTP: one file per resource. A handler reads, calls one use case and answers; it decides nothing.

mod admin_nodes;
mod audit;
mod backup;
mod bans;
mod health;
mod incoming;
mod invites;
mod nodes;
mod oauth;
mod problem;
mod public;
mod rate;
mod reply;
mod resolve;
mod route;
mod server;
mod watch;

use std::sync::Arc;

use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

pub use server::{Server, ServerError};

use crate::app::{App, Caller, Failure};
use incoming::Incoming;
use problem::ApiError;
use rate::Limiters;

/// What handlers share.
struct Api {
    app: Arc<App>,
    limiters: Limiters,
}

/// Whose routes: a node's key under `/nodes`, an admin's token under `/admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Node,
    Admin,
}

impl Api {
    /// The caller, by the scope's kind of credential. Wrong ones are counted per address.
    fn caller(&self, scope: Scope, incoming: &Incoming) -> Result<Caller, ApiError> {
        let address = incoming.address();
        self.limiters.wrong_key.peek(address)?;
        let text = incoming.bearer().unwrap_or_default();
        let caller = match scope {
            Scope::Node => self.app.node_caller(text, address, incoming.request_id()),
            Scope::Admin => self.app.admin_caller(text, address, incoming.request_id()),
        };
        caller.map_err(|failure| self.wrong_key(incoming, failure))
    }

    /// Counts a wrong key and gives the failure on.
    fn wrong_key(&self, incoming: &Incoming, failure: Failure) -> ApiError {
        self.limiters.wrong_key.spend(incoming.address());
        ApiError::from(failure)
    }
}

/// All routes. Grouped by their first segments: warp tries routes one by one.
fn routes(api: &Arc<Api>) -> BoxedFilter<(Response,)> {
    let node = route::any_of([
        watch::routes(api),
        nodes::routes(api),
        invites::routes(api, Scope::Node),
        bans::routes(api, Scope::Node),
        audit::routes(api, Scope::Node),
    ]);
    let admin = route::any_of([
        admin_nodes::routes(api),
        invites::routes(api, Scope::Admin),
        bans::routes(api, Scope::Admin),
        audit::routes(api, Scope::Admin),
        backup::routes(api),
    ]);
    let v1 = route::any_of([
        warp::path("nodes").and(node).boxed(),
        oauth::routes(api),
        resolve::routes(api),
        warp::path("public").and(public::routes(api)).boxed(),
        warp::path("admin").and(admin).boxed(),
    ]);
    let api_v1 = warp::path("api").and(warp::path("v1")).and(v1).boxed();
    route::any_of([api_v1, health::routes(api)])
        .recover(problem::recover)
        .unify()
        .boxed()
}

/// A handler's result.
type Answer = Result<Response, ApiError>;
