//! The example `trip`, as a process of its own that crashes half-way.

use idem_examples::Example;
use idem_frameworks::{is_replay, post};
use serde_json::Value;

#[tokio::test]
async fn a_trip_that_crashed_continues_where_it_stopped() {
    let directory = std::env::temp_dir().join(format!("idem-trip-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str| directory.join(name).display().to_string();
    let (store, calls) = (format!("sqlite://{}", file("trip.db")), file("calls"));
    let options = ["--store", &store, "--calls", &calls];
    let order = r#"{"reference":"t","price":5}"#;

    let crashing = [&options[..], &["--crash-after", "charge_card"]].concat();
    let mut example = Example::start("trip", &crashing);
    let request = example.server.exchange(post("/trips", "trip-1", order));
    assert!(tokio::spawn(request).await.is_err(), "it is not answered");
    example.wait();

    let example = Example::start("trip", &options);
    // The crash is noticed when its lease is over.
    let response = loop {
        let response = example.server.send(post("/trips", "trip-1", order)).await;
        if response.status() != 409 {
            break response;
        }
    };
    assert_eq!(response.status(), 201);
    let trip: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(
        (&trip["seat"], &trip["charge"]),
        (&"1A".into(), &"ch_2".into())
    );
    let replay = example.server.send(post("/trips", "trip-1", order)).await;
    assert!(is_replay(&replay));
    assert_eq!(replay.body(), response.body());
    let calls = std::fs::read_to_string(file("calls")).unwrap();
    assert_eq!(calls.lines().count(), 2, "{calls}");
    drop(example);
    std::fs::remove_dir_all(&directory).unwrap();
}
