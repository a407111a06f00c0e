//! An authority, a certificate for the members and one for their client.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Certs {
    pub(crate) ca: PathBuf,
    server_cert: PathBuf,
    server_key: PathBuf,
    pub(crate) client_cert: PathBuf,
    pub(crate) client_key: PathBuf,
}

impl Certs {
    pub(crate) fn new(dir: &Path) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "authority");
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let save = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let signed = |name: &str, usage| {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &issuer).unwrap();
            (save(&format!("{name}.crt"), cert.pem()), save(&format!("{name}.key"), key.serialize_pem()))
        };
        let (server_cert, server_key) = signed("server", ExtendedKeyUsagePurpose::ServerAuth);
        let (client_cert, client_key) = signed("client", ExtendedKeyUsagePurpose::ClientAuth);
        Self { ca: save("ca.crt", ca.pem()), server_cert, server_key, client_cert, client_key }
    }

    pub(crate) fn server_arguments(&self) -> [String; 4] {
        [
            format!("--cert-file={}", self.server_cert.display()),
            format!("--key-file={}", self.server_key.display()),
            format!("--trusted-ca-file={}", self.ca.display()),
            "--client-cert-auth".to_owned(),
        ]
    }
}
