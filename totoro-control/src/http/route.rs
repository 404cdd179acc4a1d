//! Gluing warp filters to handlers. Every route is boxed: unboxed filter types cost minutes of
//! compile time where they meet.
//!
//! A route cannot be made without saying what it is: the document of the API, the `Allow` header and
//! the server are made from the same list.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt as _;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::path::FullPath;
use warp::reply::Response;

use super::about::About;
use super::incoming::{Incoming, incoming};
use super::{Answer, Api, ApiError};

/// A method and a path, as a filter and as a text.
pub(super) struct At<F> {
    /// Takes requests for it.
    pub(super) filter: F,
    /// Takes requests with its method, whatever their path.
    pub(super) of_method: BoxedFilter<()>,
    /// The method.
    pub(super) method: Method,
    /// The path, `{id}` standing for one segment.
    pub(super) path: &'static str,
}

/// [`At`] a method and a path: `at!(get, "bans" / String)`.
macro_rules! at {
    ($method:ident, $($piece:tt)*) => {
        $crate::http::route::At {
            filter: warp::Filter::boxed(warp::Filter::and(
                warp::path!($($piece)*),
                warp::$method(),
            )),
            of_method: warp::Filter::boxed(warp::$method()),
            method: $crate::http::route::at!(@method $method),
            path: concat!($($crate::http::route::at!(@text $piece)),*),
        }
    };
    (@method get) => { warp::http::Method::GET };
    (@method post) => { warp::http::Method::POST };
    (@method patch) => { warp::http::Method::PATCH };
    (@method delete) => { warp::http::Method::DELETE };
    (@text /) => { "/" };
    (@text String) => { "{id}" };
    (@text $name:literal) => { $name };
}
pub(super) use at;

/// What one route serves.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) method: Method,
    /// Below what it is nested in.
    pub(super) path: String,
    pub(super) about: About,
}

/// A route, or several.
pub(super) struct Route {
    filter: BoxedFilter<(Response,)>,
    served: Vec<Served>,
    /// One for each that is served: for who knows already that the path is this one, where the path has
    /// no parameter.
    leaves: Vec<Option<BoxedFilter<(Response,)>>>,
}

impl Route {
    fn new<F>(
        at: At<F>,
        about: About,
        filter: BoxedFilter<(Response,)>,
        leaf: Option<BoxedFilter<(Response,)>>,
    ) -> Self {
        let served = Served {
            method: at.method,
            path: format!("/{}", at.path),
            about,
        };
        Route {
            filter,
            served: vec![served],
            leaves: vec![leaf],
        }
    }

    /// These below what a filter takes off the path, which `prefix` is the text of.
    fn below(mut self, filter: &BoxedFilter<()>, prefix: &str) -> Self {
        self.filter = filter.clone().and(self.filter).boxed();
        for served in &mut self.served {
            served.path = format!("{prefix}{}", served.path);
        }
        self
    }

    /// What it serves.
    pub(super) fn served(&self) -> &[Served] {
        &self.served
    }
}

/// All that an address serves, and an answer for what it does not.
#[derive(Clone)]
pub(super) struct Routes(Arc<Dispatch>);

struct Dispatch {
    /// Those of a path without parameters: warp tries routes one by one and segment by segment, and each
    /// costs something.
    whole_paths: HashMap<String, BoxedFilter<(Response,)>>,
    all: BoxedFilter<(Response,)>,
}

impl Routes {
    /// These and no others.
    pub(super) fn new(routes: Route) -> Self {
        let Route {
            filter,
            served,
            leaves,
        } = routes;
        let table = Table::new(&served);
        let mut whole_paths = HashMap::<String, BoxedFilter<(Response,)>>::new();
        for (Served { path, .. }, leaf) in served.into_iter().zip(leaves) {
            let Some(leaf) = leaf else {
                continue;
            };
            let leaf = match whole_paths.remove(&path) {
                Some(other) => other.or(leaf).unify().boxed(),
                None => leaf,
            };
            whole_paths.insert(path, leaf);
        }
        let with_rest = |(path, filter)| (path, with_the_rest(filter, table.clone()));
        Routes(Arc::new(Dispatch {
            whole_paths: whole_paths.into_iter().map(with_rest).collect(),
            all: with_the_rest(filter, table),
        }))
    }

    /// Those that a request with this path goes to.
    pub(super) fn of(&self, path: &str) -> BoxedFilter<(Response,)> {
        let Dispatch { whole_paths, all } = &*self.0;
        whole_paths.get(path).unwrap_or(all).clone()
    }
}

/// A method and a path without parameters.
pub(super) fn plain<F, Fut>(
    api: &Arc<Api>,
    at: At<BoxedFilter<()>>,
    about: About,
    handler: F,
) -> Route
where
    F: Fn(Arc<Api>, Incoming) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let behind = |filter: &BoxedFilter<()>| {
        let (api, handler) = (Arc::clone(api), handler.clone());
        let answered = filter
            .clone()
            .and(incoming())
            .then(move |incoming| answered(handler(Arc::clone(&api), incoming)));
        answered.boxed()
    };
    let (filter, leaf) = (behind(&at.filter), behind(&at.of_method));
    Route::new(at, about, filter, Some(leaf))
}

/// A method and a path with one id in it.
pub(super) fn with_id<F, Fut>(
    api: &Arc<Api>,
    at: At<BoxedFilter<(String,)>>,
    about: About,
    handler: F,
) -> Route
where
    F: Fn(Arc<Api>, String, Incoming) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let api = Arc::clone(api);
    let filter = at
        .filter
        .clone()
        .and(incoming())
        .then(move |id: String, incoming| answered(handler(Arc::clone(&api), id, incoming)))
        .boxed();
    Route::new(at, about, filter, None)
}

/// What a handler answers, or the response that carries its error. In memory of its own: warp moves
/// what it waits for, and a handler's future is large.
fn answered(
    answer: impl Future<Output = Answer> + Send + 'static,
) -> impl Future<Output = Response> + Send {
    Box::pin(answer).map(|answer| answer.unwrap_or_else(ApiError::into_response))
}

/// The first of these that matches.
pub(super) fn any_of<const N: usize>(routes: [Route; N]) -> Route {
    let mut routes = routes.into_iter();
    let first = routes.next().expect("a group has routes");
    routes.fold(first, |mut all, route| {
        all.filter = all.filter.or(route.filter).unify().boxed();
        all.served.extend(route.served);
        all.leaves.extend(route.leaves);
        all
    })
}

/// These below `/api/v1`.
pub(super) fn v1(route: Route) -> Route {
    let v1 = warp::path("api").and(warp::path("v1")).boxed();
    route.below(&v1, "/api/v1")
}

/// These below a first segment of the path.
pub(super) fn under(segment: &'static str, route: Route) -> Route {
    let first = warp::path(segment).boxed();
    route.below(&first, &format!("/{segment}"))
}

/// With an answer for every path and method that no route takes: they alone reject.
fn with_the_rest(filter: BoxedFilter<(Response,)>, table: Table) -> BoxedFilter<(Response,)> {
    let rest = warp::path::full().map(move |path: FullPath| {
        ApiError::unserved(table.methods(path.as_str())).into_response()
    });
    filter.or(rest).unify().boxed()
}

/// Which methods each path has, for those that no route takes.
#[derive(Clone)]
struct Table(Arc<Vec<(String, String)>>);

impl Table {
    fn new(served: &[Served]) -> Self {
        let mut table: Vec<(String, String)> = Vec::new();
        for Served { method, path, .. } in served {
            let at = table.iter().position(|(known, _)| known == path);
            let at = at.unwrap_or_else(|| {
                table.push((path.clone(), String::new()));
                table.len() - 1
            });
            let methods = &mut table[at].1;
            if !methods.is_empty() {
                methods.push_str(", ");
            }
            methods.push_str(method.as_str());
            // Served wherever GET is.
            if *method == Method::GET {
                methods.push_str(", HEAD");
            }
        }
        Table(Arc::new(table))
    }

    /// The methods of a path that is served: what `Allow` says.
    fn methods(&self, path: &str) -> Option<&str> {
        let found = self.0.iter().find(|(pattern, _)| fits(path, pattern));
        found.map(|(_, methods)| methods.as_str())
    }
}

/// Whether a path is one of a pattern's, as warp matches it: the last `/` may be there or not.
fn fits(path: &str, pattern: &str) -> bool {
    let cut = |path| str::strip_suffix(path, '/').unwrap_or(path);
    let (path, pattern) = (cut(path), cut(pattern));
    let (mut path, mut pattern) = (path.split('/'), pattern.split('/'));
    loop {
        match (path.next(), pattern.next()) {
            (None, None) => return true,
            (Some(segment), Some("{id}")) if !segment.is_empty() => {}
            (Some(segment), Some(wanted)) if segment == wanted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn paths() {
        for (path, pattern, is) in [
            ("/healthz", "/healthz", true),
            ("/healthz/", "/healthz", true),
            ("/bans/b-1", "/bans/{id}", true),
            ("/bans/", "/bans/{id}", false),
            ("/bans/b/c", "/bans/{id}", false),
            ("/nodes/n/token", "/nodes/{id}/token", true),
            ("/", "/healthz", false),
            ("/", "/", true),
            ("/healthz", "/", false),
        ] {
            assert_eq!(fits(path, pattern), is, "{path} {pattern}");
        }
    }
}
