//! One HTTP request over a loopback connection: the CPU time of the whole server process.
//!
//! Every contender is a server in a process of its own, on as many threads as the machine has.

use idem_benches::Target::{AtMost, Baseline, None};
use idem_benches::http::Keys::{Fresh, Known};
use idem_benches::socket::{CONNECTIONS, Server, client_runtime, listen, serving};
use idem_benches::{Contender, apps, interleave, print, scaled};
use tokio::runtime::Runtime;

fn main() {
    if let Some(what) = serving() {
        let runtime = Runtime::new().expect("a runtime");
        let app = apps::named(&runtime, &what);
        listen(&runtime, app);
    } else {
        compare();
    }
}

fn compare() {
    let runtime = &client_runtime();
    let rounds = scaled(41, 9);
    let contender = |name, target, app, keys| {
        let server = Server::start(runtime, &[app]);
        Contender::new(name, target, move || [server.round(runtime, keys)])
    };
    let mut contenders = vec![
        contender("plain handler", Baseline, "plain", Fresh),
        contender("first, by hand, sharded map", None, "by-hand", Fresh),
        contender("**first, idem**", AtMost(1.35), "idem", Fresh),
        contender("replay, by hand, sharded map", None, "by-hand", Known),
        contender("**replay, idem**", AtMost(0.62), "idem", Known),
        contender("first, idem's layer", None, "layer", Fresh),
        contender("replay, idem's layer", None, "layer", Known),
    ];
    if cfg!(feature = "peers") {
        contenders.extend([
            contender("first, `idempotent`", None, "idempotent", Fresh),
            contender("replay, `idempotent`", None, "idempotent", Known),
            contender(
                "first, `axum-idempotent`, no fingerprint, no lock",
                None,
                "axum-idempotent",
                Fresh,
            ),
            contender(
                "replay, `axum-idempotent`, no fingerprint",
                None,
                "axum-idempotent",
                Known,
            ),
        ]);
    }
    let [figures] = interleave(rounds, contenders);
    let title = format!("One request over a socket, {CONNECTIONS} connections");
    print(&title, "µs of server CPU per request", 1000.0, &figures);
}
