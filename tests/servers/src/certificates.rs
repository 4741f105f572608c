//! An authority of its own for each server, and the certificates of the server and of a client.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Whom a server's certificate is for, where nothing else is asked for.
pub(crate) const HERE: &[&str] = &["127.0.0.1", "localhost"];

/// Writes `ca.pem`, and `server.pem`, `server.key`, `client.pem` and `client.key` of that authority, into a
/// directory. The server's is for these names. Gives the authority's certificate.
pub(crate) fn write_certificates(directory: &Path, names: &[&str]) -> Vec<u8> {
    let files = generate(names).unwrap_or_else(|error| panic!("certificates: {error}"));
    for (name, pem) in &files {
        fs::write(directory.join(name), pem).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let [(_, ca), ..] = files;
    ca.into_bytes()
}

fn generate(names: &[&str]) -> Result<[(&'static str, String); 5], rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority
        .distinguished_name
        .push(DnType::CommonName, "idem tests' authority");
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let (server, server_key) = signed(&issuer, names, server, "idem tests' server")?;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let (client, client_key) = signed(&issuer, Vec::new(), client, "idem tests' client")?;
    Ok([
        ("ca.pem", ca),
        ("server.pem", server),
        ("server.key", server_key),
        ("client.pem", client),
        ("client.key", client_key),
    ])
}

/// A certificate and its key.
fn signed(
    issuer: &Issuer<'_, KeyPair>,
    names: Vec<String>,
    purpose: ExtendedKeyUsagePurpose,
    common_name: &str,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
