//! frps's certificate: a CA of the node's own, made once and kept, so that clients can pin it; and a
//! server certificate for the names that clients use.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::secret;

/// The CA's certificate, public.
pub const CA: &str = "ca.pem";
/// frps's certificate.
pub const CERT: &str = "frps.pem";
/// frps's private key, 0600.
pub const KEY: &str = "frps.key";

/// The CA's private key, 0600. frps never reads it.
pub const CA_KEY: &str = "ca.key";

/// Makes frps's certificate under `dir` for these `host:port` addresses, signed by the CA that is
/// there already or, the first time, by a new one. The CA stays for ever: clients pin it.
///
/// # Errors
/// An address is no host name or IP address, the CA's files are not as they were made, or a file
/// can't be written.
pub fn make(dir: &Path, node: &str, server_addr: &[String]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let issuer = match std::fs::read_to_string(dir.join(CA)) {
        Ok(ca) => {
            let key = secret::read(&dir.join(CA_KEY)).context("the CA's key")?;
            let key = KeyPair::from_pem(&key).context("understand the CA's key")?;
            Issuer::from_ca_cert_pem(&ca, key).context("understand the CA's certificate")?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_ca(dir, node)?,
        Err(error) => return Err(error).with_context(|| format!("read {CA}")),
    };
    let hosts: Vec<String> = server_addr
        .iter()
        .map(|addr| host_of(addr).to_owned())
        .collect();
    let mut server = CertificateParams::new(hosts).context("the node's server_addr")?;
    server
        .distinguished_name
        .push(DnType::CommonName, format!("frps of {node}"));
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().context("make frps's key")?;
    let cert = server
        .signed_by(&key, &issuer)
        .context("sign frps's certificate")?;
    secret::write(&dir.join(KEY), &key.serialize_pem())?;
    secret::write_mode(&dir.join(CERT), &cert.pem(), 0o644)
}

fn make_ca(dir: &Path, node: &str) -> Result<Issuer<'static, KeyPair>> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name
        .push(DnType::CommonName, format!("Totoro node {node}"));
    let key = KeyPair::generate().context("make the CA's key")?;
    let cert = ca.self_signed(&key).context("sign the CA's certificate")?;
    // The certificate last: once it is there, so is its key.
    secret::write(&dir.join(CA_KEY), &key.serialize_pem())?;
    secret::write_mode(&dir.join(CA), &cert.pem(), 0o644)?;
    Ok(Issuer::new(ca, key))
}

/// The host of `host:port` or `[v6]:port`.
#[must_use]
pub fn host_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        assert_eq!(host_of("node.example:7000"), "node.example");
        assert_eq!(host_of("192.0.2.1:7000"), "192.0.2.1");
        assert_eq!(host_of("[2001:db8::1]:7000"), "2001:db8::1");
    }

    #[test]
    fn the_ca_stays_when_the_addresses_change() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        make(dir.path(), "n1", &["192.0.2.1:7000".to_owned()]).unwrap();
        let (ca, cert) = (read(CA), read(CERT));
        make(dir.path(), "n1", &["node.example:7000".to_owned()]).unwrap();
        assert_eq!(read(CA), ca);
        assert_ne!(read(CERT), cert);
        // A CA without its key can sign nothing: said, and nothing is overwritten.
        std::fs::remove_file(dir.path().join(CA_KEY)).unwrap();
        let error = make(dir.path(), "n1", &["node.example:7000".to_owned()]).unwrap_err();
        assert!(format!("{error:#}").contains("the CA's key"), "{error:#}");
        assert_eq!(read(CA), ca);
    }

    #[test]
    fn the_key_is_secret_and_the_certificates_are_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        make(
            dir.path(),
            "n1",
            &["192.0.2.1:7000".to_owned(), "node.example:7000".to_owned()],
        )
        .unwrap();
        let mode = |name| {
            std::fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode(KEY), mode(CA_KEY)), (0o600, 0o600));
        assert_eq!((mode(CERT), mode(CA)), (0o644, 0o644));
        let cert = std::fs::read_to_string(dir.path().join(CERT)).unwrap();
        assert!(cert.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
