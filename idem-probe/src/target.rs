//! Where requests go: addresses that were looked up once, looked at once, and are the only ones that
//! are ever connected to. There are no redirects and no proxies.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme, Uri};

use crate::error::Error;

/// A server, by its addresses.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) authority: Authority,
    pub(crate) path: PathAndQuery,
    pub(crate) is_tls: bool,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Target {
    pub(crate) async fn look_up(
        url: &str,
        i_own_this: bool,
        patience: Duration,
    ) -> Result<Self, Error> {
        let wrong = |why| Error::Option { name: "url", why };
        let url: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        let is_tls = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong("it begins neither with http:// nor with https://")),
        };
        let authority = url.authority().ok_or(wrong("it has no host"))?.clone();
        if authority.as_str().contains('@') {
            return Err(wrong("it holds a credential: give that in `credential`"));
        }
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority
            .port_u16()
            .unwrap_or(if is_tls { 443 } else { 80 });
        let found = tokio::time::timeout(patience, tokio::net::lookup_host((host, port))).await;
        let found = found.unwrap_or_else(|late| Err(late.into()));
        let addresses: Vec<_> = found.map_err(Error::Resolve)?.collect();
        admit(&addresses, i_own_this)?;
        let path = url.path_and_query().cloned();
        Ok(Self {
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            authority,
            is_tls,
            addresses,
        })
    }

    /// Without the query, which may hold a secret.
    pub(crate) fn shown(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path.path())
    }
}

/// One address elsewhere is enough to refuse: it may be the one that is reached.
fn admit(addresses: &[SocketAddr], i_own_this: bool) -> Result<(), Error> {
    let is_here = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.to_canonical().is_loopback(),
    };
    match (addresses.is_empty(), addresses.iter().all(is_here)) {
        (true, _) => Err(Error::Resolve(std::io::ErrorKind::NotFound.into())),
        (false, false) if !i_own_this => Err(Error::NotLoopback),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(addresses: &[&str], i_own_this: bool) -> bool {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        admit(&addresses, i_own_this).is_ok()
    }

    #[test]
    fn a_name_with_one_address_elsewhere_is_elsewhere() {
        for here in [
            "127.0.0.1:80",
            "127.8.9.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(admits(&[here], false), "{here}");
        }
        for elsewhere in [
            "192.0.2.1:80",
            "0.0.0.0:80",
            "169.254.169.254:80",
            "[::]:80",
            "[2001:db8::1]:80",
            "[::ffff:192.0.2.1]:80",
        ] {
            assert!(!admits(&[elsewhere], false), "{elsewhere}");
            assert!(!admits(&["127.0.0.1:80", elsewhere], false), "{elsewhere}");
            assert!(admits(&["127.0.0.1:80", elsewhere], true), "{elsewhere}");
        }
        assert!(!admits(&[], true));
    }

    #[tokio::test]
    async fn what_is_refused_is_refused_before_anything_is_sent() {
        let look_up = async |url: &str| Target::look_up(url, false, Duration::from_secs(10)).await;
        for elsewhere in [
            "http://192.0.2.1/",
            "https://192.0.2.1",
            "http://[::ffff:192.0.2.1]:80/",
        ] {
            let refused = look_up(elsewhere).await.unwrap_err();
            assert!(matches!(refused, Error::NotLoopback), "{refused:?}");
        }
        for wrong in [
            "",
            "/charges",
            "localhost:3000",
            "ftp://localhost/",
            "http://user:hunter2@localhost/",
        ] {
            let refused = look_up(wrong).await.unwrap_err();
            assert!(matches!(refused, Error::Option { .. }), "{refused:?}");
            assert!(!format!("{refused} {refused:?}").contains("hunter2"));
        }
        let target = look_up("http://localhost:3000/charges?token=hunter2")
            .await
            .unwrap();
        assert_eq!(target.shown(), "http://localhost:3000/charges");
    }
}
