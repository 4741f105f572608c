//! One example for each framework: it charges once.

use http::Request;
use idem_examples::{Example, run};
use idem_frameworks::{is_replay, post};
use prost::Message;

async fn charges_once(name: &str) {
    let example = Example::start(name, &[]);
    let order = r#"{"amount":1999,"currency":"eur"}"#;
    for again in [false, true] {
        let response = example
            .server
            .send(post("/charges", "order-1", order))
            .await;
        assert_eq!(response.status(), 201);
        assert_eq!(is_replay(&response), again);
        let charge: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(charge["amount"], 1999);
    }
    let list = Request::get("/charges").body("").unwrap();
    let charges = example.server.send(list).await;
    assert_eq!(charges.status(), 200);
    let charges: Vec<serde_json::Value> = serde_json::from_slice(charges.body()).unwrap();
    assert_eq!(charges.len(), 1);
}

macro_rules! examples {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                charges_once(concat!(stringify!($name), "-charges")).await;
            }
        )*
    };
}

examples!(actix, axum, hyper, poem, rocket, salvo, tower, warp);

#[derive(Clone, PartialEq, Message)]
struct Charge {
    #[prost(uint64, tag = "1")]
    amount: u64,
    #[prost(string, tag = "2")]
    currency: String,
}

#[derive(Clone, PartialEq, Message)]
struct All {
    #[prost(message, repeated, tag = "1")]
    charges: Vec<Charge>,
}

async fn rpc<M, N>(example: &Example, method: &'static str, message: M) -> tonic::Response<N>
where
    M: Message + Send + 'static,
    N: Message + Default + Send + 'static,
{
    let address = format!("http://{}", example.server.0);
    let channel = tonic::transport::Endpoint::try_from(address).unwrap();
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(message);
    let key = "order-1".parse().unwrap();
    request.metadata_mut().insert("idempotency-key", key);
    let path = http::uri::PathAndQuery::from_static(method);
    let codec = tonic_prost::ProstCodec::default();
    client.unary(request, path, codec).await.unwrap()
}

#[tokio::test]
async fn tonic() {
    let example = Example::start("tonic-charges", &[]);
    for again in [false, true] {
        let charge = Charge {
            amount: 1999,
            currency: "eur".to_owned(),
        };
        let answer: tonic::Response<Charge> =
            rpc(&example, "/shop.Charges/Create", charge.clone()).await;
        assert_eq!(answer.get_ref(), &charge);
        let is_replay = answer.metadata().contains_key("idempotent-replayed");
        assert_eq!(is_replay, again);
    }
    let all: tonic::Response<All> = rpc(&example, "/shop.Charges/List", ()).await;
    assert_eq!(all.get_ref().charges.len(), 1);
}

#[test]
fn queue() {
    let printed = run("queue");
    assert!(printed.contains("payout-1, delivery 2: not executed again, payment 1"));
    assert!(printed.ends_with("4 deliveries, 2 payments\n"), "{printed}");
}
