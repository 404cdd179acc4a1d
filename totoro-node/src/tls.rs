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

/// Makes CA and certificate under `dir` for these `host:port` addresses. The CA's key is not kept:
/// nothing else is ever signed with it, so nobody can steal it.
///
/// # Errors
/// An address is no host name or IP address, or a file can't be written.
pub fn make(dir: &Path, node: &str, server_addr: &[String]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name
        .push(DnType::CommonName, format!("Totoro node {node}"));
    let ca_key = KeyPair::generate().context("make the CA's key")?;
    let ca_cert = ca
        .self_signed(&ca_key)
        .context("sign the CA's certificate")?;
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
    let issuer = Issuer::new(ca, ca_key);
    let cert = server
        .signed_by(&key, &issuer)
        .context("sign frps's certificate")?;
    secret::write(&dir.join(KEY), &key.serialize_pem())?;
    secret::write_mode(&dir.join(CERT), &cert.pem(), 0o644)?;
    secret::write_mode(&dir.join(CA), &ca_cert.pem(), 0o644)
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
        assert_eq!((mode(KEY), mode(CERT), mode(CA)), (0o600, 0o644, 0o644));
        let cert = std::fs::read_to_string(dir.path().join(CERT)).unwrap();
        assert!(cert.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
