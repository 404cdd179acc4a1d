//! The same calls over TLS: a certificate for the loopback, what the clients trust, and the bare
//! handlers behind it. All of them agree on the cipher that the real server prefers.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use warp::filters::BoxedFilter;

use crate::support::ca::Authority;

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

/// What the clients trust, where there is TLS.
static TRUST: OnceLock<TlsConnector> = OnceLock::new();

/// A certificate for the loopback, in a directory of its own: `cert.pem` and `key.pem`.
pub(crate) struct Certificate {
    pub(crate) dir: tempfile::TempDir,
    /// Who signed it, in PEM.
    pub(crate) authority: String,
}

impl Certificate {
    /// A new one, which all clients of this process trust alone.
    pub(crate) fn new() -> Self {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        authority.sign(LOOPBACK.into(), dir.path());
        let authority = authority.pem();
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let first = TRUST.set(TlsConnector::from(Arc::new(config)));
        assert!(first.is_ok(), "one certificate for all");
        Certificate { dir, authority }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    })
}

/// A connection of a client.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A server's scheme, and where it is.
pub(crate) fn parts(server: &str) -> (&str, &str) {
    server.split_once("://").unwrap()
}

/// Connects to a server like `https://127.0.0.1:443`.
pub(crate) async fn connect(server: &str) -> Box<dyn Stream> {
    let (scheme, address) = parts(server);
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    match scheme {
        "https" => {
            let name = ServerName::IpAddress(IpAddr::V4(LOOPBACK.into()));
            let connector = TRUST.get().unwrap();
            Box::new(connector.connect(name, stream).await.unwrap())
        }
        _ => Box::new(stream),
    }
}

/// Serves these routes over TLS with the certificate in this directory, until killed.
pub(crate) async fn serve<R>(listener: TcpListener, dir: &Path, routes: BoxedFilter<(R,)>)
where
    R: warp::Reply + 'static,
{
    let chain = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let service = TowerToHyperService::new(warp::service(routes));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // It ends when the client hangs up, however that does it.
            let _ = served.await;
        });
    }
}
