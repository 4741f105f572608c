//! A request, and what a form has left of it in the store.

use std::sync::LazyLock;

use idem::Engine;
use idem::stores::memory::MemoryStore;

pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(MemoryStore::new()));

/// A request. Its key is its name.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) host: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) authorization: Option<&'static str>,
    /// The scope.
    pub(crate) tenant: Option<&'static str>,
    pub(crate) body: &'static str,
}

pub(crate) const PLAIN: Case = Case {
    name: "plain",
    path: "/charges",
    host: "acme.example.com",
    content_type: "text/plain",
    authorization: None,
    tenant: None,
    body: "19.99",
};

impl Case {
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let given = [
            ("idempotency-key", Some(self.name)),
            ("host", Some(self.host)),
            ("content-type", Some(self.content_type)),
            ("authorization", self.authorization),
            (TENANT, self.tenant),
        ];
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }

    #[allow(dead_code, reason = "not every framework's requests are of this type")]
    pub(crate) fn request<B: From<&'static str>>(&self) -> http::Request<B> {
        let request = http::Request::post(self.path);
        let request = self.headers().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        request.body(self.body.into()).expect("a request")
    }
}

pub(crate) const TENANT: &str = "x-tenant";

#[allow(dead_code, reason = "not every framework's headers are of this type")]
pub(crate) fn tenant(headers: &http::HeaderMap) -> Option<String> {
    let tenant = headers.get(TENANT)?;
    Some(tenant.to_str().ok()?.to_owned())
}

/// What a form has left in the store.
pub(crate) async fn print(counts: &str, operation: &'static str, case: &Case) {
    let scoped = ENGINE.operation(operation).scope(&case.tenant);
    let record = scoped.inspect(case.name).await.expect("the store answers");
    let record = record.unwrap_or_else(|| panic!("{operation} has no record of {}", case.name));
    let fingerprint = record.fingerprint.to_bytes();
    let hex: String = fingerprint
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    println!("{counts} {}\t{hex}", case.name);
}
