//! What identifies a request must not depend on the features that are enabled. This prints it, for
//! every form that the enabled features have; `cargo xtask test` builds it with each feature alone
//! and with all of them, and compares.
//!
//! A line is a name and a fingerprint, divided by a tab. The fingerprint was found in the store under
//! the record id of the operation's name, scope and key, so it stands for that, too. What handler
//! forms count is the request, in all of them alike; what functions count is each one's own.

mod forms;

use std::sync::LazyLock;

use idem::Engine;
use idem::stores::memory::MemoryStore;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(MemoryStore::new()));

/// A request. Its key is its name.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    path: &'static str,
    host: &'static str,
    content_type: &'static str,
    authorization: Option<&'static str>,
    /// The scope.
    tenant: Option<&'static str>,
    body: &'static str,
}

const PLAIN: Case = Case {
    name: "plain",
    path: "/charges",
    host: "acme.example.com",
    content_type: "text/plain",
    authorization: None,
    tenant: None,
    body: "19.99",
};

const CASES: &[Case] = &[
    PLAIN,
    Case {
        name: "body",
        body: "20.99",
        ..PLAIN
    },
    Case {
        name: "path",
        path: "/refunds",
        ..PLAIN
    },
    Case {
        name: "query",
        path: "/charges?dry=1",
        ..PLAIN
    },
    Case {
        name: "nested",
        path: "/v1/charges",
        ..PLAIN
    },
    Case {
        name: "content-type",
        content_type: "text/markdown",
        ..PLAIN
    },
    Case {
        name: "host",
        host: "umbrella.example.com",
        ..PLAIN
    },
    Case {
        name: "caller",
        authorization: Some("Bearer alice"),
        ..PLAIN
    },
    Case {
        name: "scope",
        authorization: Some("Bearer alice"),
        tenant: Some("acme"),
        ..PLAIN
    },
];

impl Case {
    fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
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
    fn request<B: From<&'static str>>(&self) -> http::Request<B> {
        let request = http::Request::post(self.path);
        let request = self.headers().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        request.body(self.body.into()).expect("a request")
    }
}

const TENANT: &str = "x-tenant";

#[allow(dead_code, reason = "not every framework's headers are of this type")]
fn tenant(headers: &http::HeaderMap) -> Option<String> {
    let tenant = headers.get(TENANT)?;
    Some(tenant.to_str().ok()?.to_owned())
}

/// What a form has left in the store.
async fn print(counts: &str, operation: &'static str, case: &Case) {
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

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for case in CASES {
        runtime.block_on(forms::print_all(case));
        #[cfg(feature = "actix")]
        actix_web::rt::System::new().block_on(forms::actix::print(case));
    }
}
