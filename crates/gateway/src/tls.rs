//! Certificates: TLS for clients, mTLS between gateways.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::TlsFiles;

/// The application protocol of PostgreSQL over direct TLS (PostgreSQL documentation, section 53.2.11).
const ALPN: &[u8] = b"postgresql";

/// What is ready to accept and to open TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    /// For clients: they may, but need not, know the authority.
    pub(crate) client_acceptor: TlsAcceptor,
    /// For other gateways: only who has a certificate of the authority gets in.
    pub(crate) link_acceptor: TlsAcceptor,
    /// Towards other gateways.
    pub(crate) link_connector: TlsConnector,
}

/// The name in the certificate of a region's gateway.
pub(crate) fn gateway_name(
    cluster: &str,
    region: &pangea_base::RegionId,
) -> Result<ServerName<'static>, String> {
    let name = format!("{region}.{cluster}.pangea.internal");
    ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no DNS name"))
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, String> {
        let authority = certificates(&files.ca)?;
        let chain = certificates(&files.cert)?;
        let key = || private_key(&files.key);
        let mut roots = RootCertStore::empty();
        for certificate in authority {
            roots.add(certificate).map_err(|error| format!("{}: {error}", files.ca.display()))?;
        }
        let roots = Arc::new(roots);
        let said = |error: rustls::Error| format!("{}: {error}", files.cert.display());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server =
            || ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut client_config = server()
            .map_err(said)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key()?)
            .map_err(said)?;
        client_config.alpn_protocols = vec![ALPN.to_vec()];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| format!("{}: {error}", files.ca.display()))?;
        let mut link_config = server()
            .map_err(said)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(said)?;
        link_config.alpn_protocols = vec![ALPN.to_vec()];
        let mut connect_config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(said)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(said)?;
        connect_config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            client_acceptor: Arc::new(client_config).into(),
            link_acceptor: Arc::new(link_config).into(),
            link_connector: Arc::new(connect_config).into(),
        })
    }
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("cannot read a private key from {}: {error}", path.display()))
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |error| format!("cannot read certificates from {}: {error}", path.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(said)?.collect::<Result<_, _>>().map_err(said)?;
    if found.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(found) }
}
