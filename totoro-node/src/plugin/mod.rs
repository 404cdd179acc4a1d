//! Where frps asks: a small HTTP server on loopback that speaks frp's plugin protocol.
//!
//! frps waits without a time limit, so every answer comes soon and nothing here waits for the
//! control plane. Whatever is wrong with a request is answered as a refusal with a reason, because
//! frpc prints that; only a wrong secret, which is no frps of ours, gets a bare 401.

mod limit;
mod listen;
mod meter;
mod places;
mod server;

use totoro_api::Refusal;
use totoro_api::wire::plugin::{Answer, CloseProxy, Login, NewProxy};

use crate::session::Desk;

pub use limit::Doors;
pub use listen::bind;
pub use meter::Meter;
pub use server::{Limits, Server, Serving};

/// Who answers frps. The server around it reads and checks requests. What it is asked it decides to the
/// end, whether or not anybody waits for the answer.
pub trait Clerk: Send + Sync + 'static {
    /// Where a Login comes from, by what frps tells of it; `None` = it can't be told, refused = it
    /// is not looked for now.
    fn client(&self, client_address: &str) -> Result<Option<std::net::SocketAddr>, Refusal>;
    /// A Login from the address in `body`; `content` is the body as it was sent.
    fn login(
        &self,
        body: &Login,
        content: serde_json::Value,
    ) -> impl Future<Output = Answer> + Send;
    /// A NewProxy; `content` is the body as it was sent, read when it is needed.
    fn new_proxy(
        &self,
        body: &NewProxy,
        content: impl FnOnce() -> Result<serde_json::Value, Refusal> + Send,
    ) -> impl Future<Output = Answer> + Send;
    /// A CloseProxy, which can't be refused.
    fn close_proxy(&self, body: &CloseProxy) -> impl Future<Output = ()> + Send;
    /// frpc's connection from there has failed too often.
    fn drop_connection(&self, client: std::net::SocketAddr);
}

impl Clerk for Desk {
    fn client(&self, client_address: &str) -> Result<Option<std::net::SocketAddr>, Refusal> {
        Desk::client(self, client_address)
    }

    async fn login(&self, body: &Login, content: serde_json::Value) -> Answer {
        Desk::login(self, body, content).await
    }

    async fn new_proxy(
        &self,
        body: &NewProxy,
        content: impl FnOnce() -> Result<serde_json::Value, Refusal> + Send,
    ) -> Answer {
        Desk::new_proxy(self, body, content).await
    }

    async fn close_proxy(&self, body: &CloseProxy) {
        Desk::close_proxy(self, body).await;
    }

    fn drop_connection(&self, client: std::net::SocketAddr) {
        Desk::drop_connection(self, client);
    }
}
