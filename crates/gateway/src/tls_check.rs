//! What other gateways and clients would find wrong with a gateway's certificate, before they do.
//!
//! The same verifier looks at it that the other side of a link has, so that the answers cannot differ.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pangea_base::RegionId;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};

use crate::config::TlsFiles;
use crate::tls::{certificates, gateway_name, private_key};

/// A certificate that ends sooner is told of. Authorities that renew by themselves do it earlier.
const ENDS_SOON: Duration = Duration::from_secs(14 * SECONDS_A_DAY);
const SECONDS_A_DAY: u64 = 86_400;

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The authority's certificate.
    Ca,
    /// The gateway's certificate.
    Cert,
    /// Its key.
    Key,
}

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// No gateway starts with it.
    Unusable,
    /// The key is not the certificate's.
    Mismatched,
    /// Other gateways do not accept it.
    Refused,
    /// Other gateways do not accept it any more, or not yet.
    Untimely,
    /// It is good for some days yet.
    EndsSoon,
}

/// Something that is wrong with one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProblem {
    /// The file.
    pub file: TlsFile,
    /// What kind it is.
    pub fault: TlsFault,
    /// What is wrong.
    pub text: String,
}

/// Whether the gateway of a region of this cluster can have a name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(cluster: &str, region: &RegionId) -> Result<(), String> {
    gateway_name(cluster, region).map(drop)
}

/// Looks at the files of the gateway of `region`.
#[must_use]
pub fn check_tls(files: &TlsFiles, cluster: &str, region: &RegionId, now: SystemTime) -> Vec<TlsProblem> {
    let mut problems = Vec::new();
    let mut wrong = |file, fault, text| problems.push(TlsProblem { file, fault, text });
    let mut unusable = |file, text| wrong(file, TlsFault::Unusable, text);
    let roots = certificates(&files.ca).and_then(|authority| {
        let mut roots = RootCertStore::empty();
        let said = |error| format!("{}: {error}", files.ca.display());
        authority.into_iter().try_for_each(|found| roots.add(found)).map_err(said)?;
        Ok(Arc::new(roots))
    });
    let roots = roots.map_err(|text| unusable(TlsFile::Ca, text)).ok();
    let chain = certificates(&files.cert).map_err(|text| unusable(TlsFile::Cert, text)).ok();
    let key = private_key(&files.key).map_err(|text| unusable(TlsFile::Key, text)).ok();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    if let (Some(chain), Some(key)) = (&chain, key) {
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let pair = builder.and_then(|it| it.with_no_client_auth().with_single_cert(chain.clone(), key));
        if let Err(error) = pair {
            let (key, cert) = (files.key.display(), files.cert.display());
            let text = format!("{key} is not the key of {cert}: {error}");
            wrong(TlsFile::Key, TlsFault::Mismatched, text);
        }
    }
    if let (Some(roots), Some(chain)) = (roots, &chain) {
        // The one that gateways have for one another's certificates.
        match WebPkiClientVerifier::builder_with_provider(roots, provider).build() {
            Ok(verifier) => {
                let verify = |now| {
                    let (own, others) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
                    verifier.verify_client_cert(own, others, now).map(drop)
                };
                problems.extend(refusal(verify, now));
            }
            Err(error) => {
                wrong(TlsFile::Ca, TlsFault::Unusable, format!("{}: {error}", files.ca.display()));
            }
        }
    }
    problems.extend(chain.and_then(|chain| misnamed(&chain, cluster, region)));
    problems
}

/// What keeps others from trusting the certificate now, or soon.
fn refusal(verify: impl Fn(UnixTime) -> Result<(), Error>, now: SystemTime) -> Option<TlsProblem> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let problem = |fault, text| Some(TlsProblem { file: TlsFile::Cert, fault, text });
    let days = |from: Duration, to: Duration| to.saturating_sub(from).as_secs() / SECONDS_A_DAY;
    match verify(UnixTime::since_unix_epoch(now)) {
        Ok(()) => match verify(UnixTime::since_unix_epoch(now + ENDS_SOON)) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                let left = days(now, Duration::from_secs(not_after.as_secs()));
                problem(TlsFault::EndsSoon, format!("the certificate expires in {left} days"))
            }
            _ => None,
        },
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let ago = days(Duration::from_secs(not_after.as_secs()), now);
            problem(TlsFault::Untimely, format!("the certificate has expired {ago} days ago"))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            let left = days(now, Duration::from_secs(not_before.as_secs()));
            problem(TlsFault::Untimely, format!("the certificate is not valid yet, for {left} days"))
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            problem(TlsFault::Refused, "the certificate is not signed by the authority in tls.ca".to_owned())
        }
        Err(error) => problem(TlsFault::Refused, format!("other gateways refuse the certificate: {error}")),
    }
}

fn misnamed(chain: &[CertificateDer<'_>], cluster: &str, region: &RegionId) -> Option<TlsProblem> {
    // A name that cannot be one is told of where the name stands.
    let name = gateway_name(cluster, region).ok()?;
    let parsed = ParsedCertificate::try_from(chain.first()?).ok()?;
    verify_server_name(&parsed, &name).err()?;
    let text = format!("the certificate is not for {}, the name of this region's gateway", name.to_str());
    Some(TlsProblem { file: TlsFile::Cert, fault: TlsFault::Refused, text })
}
