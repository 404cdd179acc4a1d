//! Gluing warp filters to handlers. Every route is boxed: unboxed filter types cost minutes of
//! compile time where they meet.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::incoming::{Incoming, incoming};
use super::{Answer, Api};

/// A route, or several.
pub(super) type Route = BoxedFilter<(Response,)>;

/// The routes of an address.
#[derive(Clone)]
pub(super) struct Table {
    hot: Arc<HashMap<&'static str, Route>>,
    all: Route,
}

impl Table {
    /// Those of some whole paths, which must answer as they would among all of them, and all.
    pub(super) fn new(hot: Vec<(&'static str, Route)>, all: Route) -> Self {
        Table {
            hot: Arc::new(hot.into_iter().collect()),
            all,
        }
    }

    /// Those that a request with this path goes to.
    pub(super) fn of(&self, path: &str) -> &Route {
        self.hot.get(path).unwrap_or(&self.all)
    }
}

/// A method and a path without parameters.
pub(super) fn plain<F, Fut>(api: &Arc<Api>, filter: BoxedFilter<()>, handler: F) -> Route
where
    F: Fn(Arc<Api>, Incoming) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let api = Arc::clone(api);
    filter
        .and(incoming())
        .then(move |incoming| {
            let answer = handler(Arc::clone(&api), incoming);
            async move { answer.await.unwrap_or_else(super::ApiError::into_response) }
        })
        .boxed()
}

/// A method and a path with one id in it.
pub(super) fn with_id<F, Fut>(api: &Arc<Api>, filter: BoxedFilter<(String,)>, handler: F) -> Route
where
    F: Fn(Arc<Api>, String, Incoming) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let api = Arc::clone(api);
    filter
        .and(incoming())
        .then(move |id: String, incoming| {
            let answer = handler(Arc::clone(&api), id, incoming);
            async move { answer.await.unwrap_or_else(super::ApiError::into_response) }
        })
        .boxed()
}

/// The first of these that matches.
pub(super) fn any_of<const N: usize>(routes: [Route; N]) -> Route {
    let mut routes = routes.into_iter();
    let first = routes.next().expect("a group has routes");
    routes.fold(first, |all, route| all.or(route).unify().boxed())
}
