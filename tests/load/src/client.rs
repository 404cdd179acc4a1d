//! One connection to the control plane: HTTP/1, from an address of its own, with or without TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

/// How long a connection or an answer may take: what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the server is, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Target {
    /// The same server, for a client that keeps TLS sessions of its own, as a node's process does.
    pub(crate) fn apart(&self) -> Target {
        let own = |shared: &Arc<rustls::ClientConfig>| {
            let mut config = rustls::ClientConfig::clone(shared);
            config.resumption = rustls::client::Resumption::in_memory_sessions(1);
            Arc::new(config)
        };
        Target {
            address: self.address,
            tls: self.tls.as_ref().map(own),
        }
    }

    /// Connects from this address.
    pub(crate) async fn connect(&self, from: Ipv4Addr) -> Result<Connection> {
        let connecting = async {
            let socket = TcpSocket::new_v4().context("make a socket")?;
            socket.bind(SocketAddr::from((from, 0)))?;
            let stream = socket.connect(self.address).await.context("connect")?;
            stream.set_nodelay(true)?;
            match &self.tls {
                None => Connection::over(stream).await,
                Some(config) => {
                    let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
                    let connector = TlsConnector::from(Arc::clone(config));
                    let stream = connector.connect(name, stream).await.context("TLS")?;
                    Connection::over(stream).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, connecting)
            .await
            .context("no connection in time")?
    }
}

/// A request, but for its connection.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// The whole of it, with its query.
    pub(crate) path: &'a str,
    pub(crate) key: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: Bytes,
}

/// An open connection. Its driver ends with it.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    async fn over<S>(stream: S) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Connection { sender })
    }

    /// Whether the server has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks; the answer's body is still to come.
    pub(crate) async fn open(&mut self, call: Call<'_>) -> Result<Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {}", call.key));
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(call.body))?;
        tokio::time::timeout(PATIENCE, self.sender.send_request(request))
            .await
            .context("no answer in time")?
            .context("no answer")
    }

    /// Asks and reads the answer, which must have this status.
    pub(crate) async fn call(&mut self, call: Call<'_>, status: StatusCode) -> Result<Bytes> {
        let path = call.path.to_owned();
        let answer = self.open(call).await?;
        let (got, body) = (answer.status(), answer.into_body().collect());
        let body = tokio::time::timeout(PATIENCE, body).await;
        let body = body.context("no whole answer in time")??.to_bytes();
        let text = || String::from_utf8_lossy(&body).into_owned();
        ensure!(got == status, "{path}: {got}: {}", text());
        Ok(body)
    }
}
