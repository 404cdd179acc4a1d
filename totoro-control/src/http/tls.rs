//! TLS by file: certificate and key, checked before use and loaded again on SIGHUP.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ServerConfig, SupportedCipherSuite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;
use crate::keys::{FileError, read_secret};

/// How long a handshake may take: it holds a connection's place and has shown nothing yet.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Why certificate and key cannot be used. Never says what is in the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate cannot be read.
    #[error("cannot read the certificate {path} (tls.cert)")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The key cannot be read, or others can read it too.
    #[error("the private key (tls.key)")]
    Key(#[from] FileError),
    /// Not what should be in it.
    #[error("{path} does not hold {expected}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What should.
        expected: &'static str,
    },
    /// They do not belong together, or the key's kind is not known.
    #[error("{cert} and {key} cannot be used together: the key must be the certificate's")]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The versions of TLS that we speak are not there.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Certificate and key as they were read.
pub struct Loaded {
    pair: CertifiedKey,
    /// When the first certificate of the chain ends, Unix seconds.
    pub expires: i64,
}

/// Reads and checks both files.
///
/// # Errors
/// When one cannot be read or does not hold what it should, the key is not private, or they do not
/// belong together.
pub fn load(files: &TlsFiles) -> Result<Loaded, TlsError> {
    let pem = std::fs::read(&files.cert).map_err(|source| TlsError::Read {
        path: files.cert.clone(),
        source,
    })?;
    let content = |path: &Path, expected| TlsError::Content {
        path: path.to_owned(),
        expected,
    };
    let not_cert = || content(&files.cert, "certificates in PEM, the server's own first");
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| not_cert())?;
    let expires = chain.first().and_then(|first| ends(first));
    let expires = expires.ok_or_else(not_cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read_secret(&files.key)?)
        .map_err(|_| content(&files.key, "a private key in PEM"))?;
    let pair = CertifiedKey::from_der(chain, key, &default_provider());
    let pair = pair.map_err(|source| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    })?;
    Ok(Loaded { pair, expires })
}

fn ends(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// The server's side of TLS.
pub struct Tls {
    files: TlsFiles,
    /// What new connections are served with.
    acceptor: RwLock<TlsAcceptor>,
}

impl Tls {
    /// TLS with these files.
    ///
    /// # Errors
    /// As [`load`].
    pub fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let acceptor = RwLock::new(acceptor(load(&files)?.pair)?);
        Ok(Arc::new(Tls { files, acceptor }))
    }

    /// Reads the files again, for the connections that come; answers when the certificate ends,
    /// Unix seconds. Those that are open go on as they began; TLS sessions are not resumed across it,
    /// so that each new connection has seen the new certificate.
    ///
    /// # Errors
    /// As [`load`]; what was used before stays in use.
    pub fn reload(&self) -> Result<i64, TlsError> {
        let loaded = load(&self.files)?;
        let renewed = acceptor(loaded.pair)?;
        let current = self.acceptor.write();
        *current.unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(loaded.expires)
    }

    /// The handshake, cut when it takes too long.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let current = self.acceptor.read();
        let handshake = current
            .unwrap_or_else(PoisonError::into_inner)
            .accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIME, handshake).await {
            Ok(done) => done,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Serves with this pair. Sessions are resumed by tickets, which the clients keep: a server's table
/// for 10,000 nodes would cost memory, and a handshake without either costs twice the processor time.
fn acceptor(pair: CertifiedKey) -> Result<TlsAcceptor, TlsError> {
    let mut provider = default_provider();
    // SHA-256 first: processors have instructions for it, and for SHA-384 ring has none.
    let hash = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.output_len(),
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.output_len(),
    };
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.version() != &TLS13, hash(suite)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new().map_err(TlsError::Setup)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::create_secret;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_private_key_and_its_own_certificate_pass() {
        let dir = tempfile::tempdir().unwrap();
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (own, other) = (made(), made());
        let files = TlsFiles {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        };
        assert!(matches!(load(&files), Err(TlsError::Read { .. })));
        std::fs::write(&files.cert, own.cert.pem()).unwrap();
        assert!(matches!(load(&files), Err(TlsError::Key(_))));
        create_secret(&files.key, own.signing_key.serialize_pem().as_bytes()).unwrap();
        assert!(load(&files).is_ok());
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o640)).unwrap();
        let loose = load(&files).err().unwrap();
        assert!(matches!(loose, TlsError::Key(FileError::Loose { .. })));
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&files.cert, other.cert.pem()).unwrap();
        assert!(matches!(load(&files), Err(TlsError::Pair { .. })));
        for not in [
            "",
            "no PEM",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ] {
            std::fs::write(&files.cert, not).unwrap();
            assert!(
                matches!(load(&files), Err(TlsError::Content { .. })),
                "{not}"
            );
        }
    }
}
