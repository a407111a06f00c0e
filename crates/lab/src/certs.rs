//! The cluster's own certificate authority and one certificate per region.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, as PEM.
pub(crate) struct Pem {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Makes the authority of a cluster.
pub(crate) fn authority(cluster: &str) -> Result<Pem, rcgen::Error> {
    let key = KeyPair::generate()?;
    let cert = authority_params(cluster)?.self_signed(&key)?;
    Ok(Pem { cert: cert.pem(), key: key.serialize_pem() })
}

fn authority_params(cluster: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} authority (Pangea)"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Makes the certificate of a region: for its gateway as server, towards clients and other gateways, and as
/// client of other gateways.
pub(crate) fn region(cluster: &str, region: &str, authority: &Pem) -> Result<Pem, rcgen::Error> {
    let issuer = Issuer::new(authority_params(cluster)?, KeyPair::from_pem(&authority.key)?);
    let name = format!("{region}.{cluster}.pangea.internal");
    let mut params =
        CertificateParams::new(vec![name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Pem { cert: cert.pem(), key: key.serialize_pem() })
}
