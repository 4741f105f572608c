//! An authority of its own for each server, and the server's certificate.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Writes `ca.pem`, `server.pem` and `server.key` into a directory, for 127.0.0.1 and localhost.
/// Gives the authority's certificate.
pub(super) fn write_certificates(directory: &Path) -> Vec<u8> {
    let (ca, server, key) = generate().unwrap_or_else(|error| panic!("certificates: {error}"));
    for (name, pem) in [
        ("ca.pem", &ca),
        ("server.pem", &server),
        ("server.key", &key),
    ] {
        fs::write(directory.join(name), pem).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    ca.into_bytes()
}

fn generate() -> Result<(String, String, String), rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority
        .distinguished_name
        .push(DnType::CommonName, "idem tests' authority");
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut server = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()])?;
    server.use_authority_key_identifier_extension = true;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server
        .distinguished_name
        .push(DnType::CommonName, "idem tests' server");
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;
    Ok((ca, certificate.pem(), key.serialize_pem()))
}
