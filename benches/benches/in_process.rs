//! One HTTP request through an axum router, without a socket.

use idem_benches::Target::{AtMost, Baseline, None};
use idem_benches::by_hand::{Moka, Sharded};
use idem_benches::http::Keys::{Fresh, Known};
use idem_benches::http::{
    Client, by_hand_app, hashed_app, install_engine, layered_app, plain_app, protected_app,
};
#[cfg(feature = "peers")]
use idem_benches::peers::idempotent_app;
use idem_benches::{Contender, interleave, print, runtime, scaled};

fn main() {
    install_engine();
    let runtime = runtime();
    let (rounds, requests) = (scaled(101, 15), 400);

    let sharded = || by_hand_app(Sharded::<false>::default());
    let detached = || by_hand_app(Sharded::<true>::default());
    let moka = || by_hand_app(Moka::default());
    let mut apps = vec![
        ("plain handler", Baseline, plain_app(), Fresh),
        ("+ body buffered and hashed", None, hashed_app(), Fresh),
        ("first, by hand, sharded map", None, sharded(), Fresh),
        ("the same, handler on its task", None, detached(), Fresh),
        ("first, by hand, moka", None, moka(), Fresh),
        ("**first, idem**", AtMost(1.4), protected_app(), Fresh),
        ("replay, by hand, sharded map", None, sharded(), Known),
        ("replay, by hand, moka", None, moka(), Known),
        ("**replay, idem**", AtMost(0.45), protected_app(), Known),
        ("first, idem's layer", None, layered_app(), Fresh),
        ("replay, idem's layer", None, layered_app(), Known),
    ];
    #[cfg(feature = "peers")]
    apps.extend([
        ("first, `idempotent`", None, idempotent_app(&runtime), Fresh),
        (
            "replay, `idempotent`",
            None,
            idempotent_app(&runtime),
            Known,
        ),
    ]);
    #[cfg(not(feature = "peers"))]
    apps.shrink_to_fit();
    let mut lengths = (0, 0);
    let contenders = apps
        .into_iter()
        .map(|(name, target, app, keys)| {
            let client = Client::new(&runtime, app, keys);
            lengths = client.lengths();
            let runtime = &runtime;
            Contender::new(name, target, move || [client.round(runtime, requests)])
        })
        .collect();
    let [figures] = interleave(rounds, contenders);
    let title = format!(
        "One request in process ({} B of JSON in, {} B out)",
        lengths.0, lengths.1
    );
    print(&title, "µs per request", 1000.0, &figures);
}
