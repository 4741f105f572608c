//! What identifies a request must not depend on the features that are enabled. This prints it, for
//! every form that the enabled features have; `cargo xtask test` builds it with each feature alone
//! and with all of them, and compares.
//!
//! A line is a name and a fingerprint, divided by a tab. The fingerprint was found in the store under
//! the record id of the operation's name, scope and key, so it stands for that, too. What handler
//! forms count is the request, in all of them alike; what functions count is each one's own.

mod case;
mod forms;

use case::{Case, PLAIN};

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

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for case in CASES {
        runtime.block_on(forms::print_all(case));
        #[cfg(feature = "actix")]
        actix_web::rt::System::new().block_on(forms::actix::print(case));
    }
}
