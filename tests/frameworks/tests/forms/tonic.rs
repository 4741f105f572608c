//! Idempotent methods of gRPC services, through a server of tonic on a loopback socket.

mod rpc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use idem::conformance::faults::{Fault, FaultyStore, Method};
use idem::stores::memory::MemoryStore;
use idem::tonic::idempotent;
use idem::{Engine, EngineBuilder};
use idem_frameworks::Works;
use rpc::{Charge, Client, NewCharge, order, reason, serve, with_key};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

#[derive(Clone, Debug)]
struct Shop {
    works: Works,
    engine: Engine,
    store: Arc<FaultyStore>,
    deadline: Duration,
}

impl Shop {
    fn open() -> Self {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        let engine = EngineBuilder::new(Arc::clone(&store) as _);
        Self {
            works: Works::default(),
            deadline: Duration::from_secs(60 * 60),
            engine: engine.max_outcome_bytes(4096).build(),
            store,
        }
    }

    async fn serve(&self) -> Client {
        serve(self.clone()).await
    }

    fn answer(&self, order: &NewCharge) -> Result<Response<Charge>, Status> {
        let number = self.works.execute();
        let text = match &*order.note {
            "large" => "x".repeat(8192),
            "panic" => panic!("as asked"),
            // Names in macros are replaced as well.
            _ => format!("charge {number} of {}", self.works.executed()),
        };
        let mut response = Response::new(Charge {
            id: u64::from(number),
            text,
        });
        let metadata = response.metadata_mut();
        metadata.insert("location", format!("/charges/{number}").parse().unwrap());
        metadata.insert_bin("trace-bin", MetadataValue::from_bytes(&[0, 255, 7]));
        Ok(response)
    }
}

impl Shop {
    /// Panics the first time, is unavailable the second time, and comes to its end the third time.
    async fn answer_in_steps(&self) -> Result<Response<Charge>, Status> {
        let step = async |name| {
            let effect = async { Ok::<_, idem::Error>(self.works.execute()) };
            let done = idem::step(name, effect).await;
            done.map_err(|error| Status::internal(error.to_string()))
        };
        let held = step("hold").await?;
        assert_ne!(idem::attempt().number(), 1, "half-way");
        let charged = step("charge").await?;
        if idem::attempt().number() == 2 {
            return Err(Status::unavailable("not yet"));
        }
        Ok(Response::new(Charge {
            text: format!("held {held}, charged {charged}"),
            ..Charge::default()
        }))
    }
}

#[tonic::async_trait]
impl rpc::Charges for Shop {
    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "tonic.create", deadline = self.deadline, engine = self.engine)]
    async fn create(
        &self,
        #[cfg(any())] absent: Absent,
        request: Request<NewCharge>,
    ) -> Result<Response<Charge>, Status> {
        let order = request.into_inner();
        if order.note == "stop" {
            self.works.stop_here().await;
        }
        if order.note == "steps" {
            return self.answer_in_steps().await;
        }
        if let Ok(code) = order.note.parse::<i32>() {
            self.works.execute();
            let mut status = Status::with_details(Code::from_i32(code), "no", vec![1, 0, 2].into());
            let metadata = status.metadata_mut();
            metadata.insert("why", MetadataValue::from_static("because"));
            return Err(status);
        }
        self.answer(&order)
    }

    /// Its key is in the message, its request taken apart, and another code frees it.
    #[idempotent(
        key = message.get_ref().note, scope = message.get_ref().amount, ttl = "24h",
        in_flight = "wait 60s", release(NOT_FOUND),
        engine = self.engine, name = "tests.tonic.other"
    )]
    async fn other(
        self: Arc<Self>,
        message: Request<NewCharge>,
    ) -> Result<Response<Charge>, Status> {
        if message.get_ref().note == "stop" {
            self.works.stop_here().await;
        }
        self.works.execute();
        match message.get_ref().amount {
            0 => Err(Status::not_found("not here")),
            _ => Err(Status::unavailable("not now")),
        }
    }
}

#[tokio::test]
async fn a_retry_gets_the_message_and_its_metadata() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let first = client.create(with_key("k", order("", 5))).await.unwrap();
    assert!(!first.metadata().contains_key("idempotent-replayed"));
    for same_key in ["k", "\"k\""] {
        let replay = client.create(with_key(same_key, order("", 5))).await;
        let replay = replay.unwrap();
        assert_eq!(replay.get_ref(), first.get_ref());
        assert_eq!(replay.metadata().get("location").unwrap(), "/charges/1");
        let trace = replay.metadata().get_bin("trace-bin").unwrap();
        assert_eq!(trace.to_bytes().unwrap(), &[0, 255, 7][..]);
        assert_eq!(
            replay.metadata().get("idempotent-replayed").unwrap(),
            "true"
        );
    }
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn a_final_status_is_stored_whole_and_a_released_one_is_not() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let call = |code: Code| {
        let key = format!("{code:?}");
        client.create(with_key(&key, order(&i32::from(code).to_string(), 5)))
    };
    let first = call(Code::InvalidArgument).await.unwrap_err();
    let replay = call(Code::InvalidArgument).await.unwrap_err();
    for status in [&first, &replay] {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!((status.message(), status.details()), ("no", &[1, 0, 2][..]));
        assert_eq!(status.metadata().get("why").unwrap(), "because");
    }
    assert!(!first.metadata().contains_key("idempotent-replayed"));
    assert_eq!(
        replay.metadata().get("idempotent-replayed").unwrap(),
        "true"
    );
    assert_eq!(shop.works.executed(), 1);
    for code in [
        Code::Unauthenticated,
        Code::ResourceExhausted,
        Code::Unavailable,
    ] {
        let before = shop.works.executed();
        assert_eq!(call(code).await.unwrap_err().code(), code);
        assert_eq!(call(code).await.unwrap_err().code(), code);
        assert_eq!(shop.works.executed(), before + 2);
    }
}

#[tokio::test]
async fn the_codes_that_free_a_key_and_the_key_itself_can_be_named() {
    let shop = Shop::open();
    let client = shop.serve().await;
    for (amount, executions) in [(0, [1, 2]), (1, [3, 3])] {
        for executed in executions {
            client
                .other(Request::new(order("k", amount)))
                .await
                .unwrap_err();
            assert_eq!(shop.works.executed(), executed);
        }
    }
}

#[tokio::test]
async fn a_bad_key_is_an_invalid_argument() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let missing = client.create(Request::new(order("", 5))).await.unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    assert_eq!(reason(&missing), "KEY_MISSING");
    // The client's developer is told which metadata to send.
    let said = missing.message();
    assert!(
        said.contains("the metadata `idempotency-key` is missing"),
        "{said}"
    );
    for malformed in ["\"open", "two words", "one,one", &"k".repeat(256)] {
        let refused = client.create(with_key(malformed, order("", 5))).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "KEY_INVALID");
    }
    let mut twice = with_key("one", order("", 5));
    let second = MetadataValue::from_static("two");
    twice.metadata_mut().append("idempotency-key", second);
    assert_eq!(
        reason(&client.create(twice).await.unwrap_err()),
        "KEY_INVALID"
    );
    assert_eq!(shop.works.executed(), 0);
}

#[tokio::test]
async fn another_message_or_another_caller_is_a_mismatch() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let from = |caller: &'static str, amount| {
        let mut request = with_key("k", order("", amount));
        let caller = MetadataValue::from_static(caller);
        request.metadata_mut().insert("authorization", caller);
        request
    };
    client.create(from("alice", 5)).await.unwrap();
    for request in [
        from("alice", 6),
        from("bob", 5),
        with_key("k", order("", 5)),
    ] {
        let refused = client.create(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason(&refused), "MISMATCH");
    }
    client.create(from("alice", 5)).await.unwrap();
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn without_a_scope_another_host_never_gets_the_answer() {
    let shop = Shop::open();
    let acme = shop.serve().await.at_host("acme.example.com").await;
    let umbrella = acme.at_host("umbrella.example.com").await;
    let request = || with_key("k", order("", 5));
    let first = acme.create(request()).await.unwrap();
    let refused = umbrella.create(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason(&refused), "MISMATCH");
    let same = acme.at_host("ACME.example.com:80").await;
    let replay = same.create(request()).await.unwrap();
    assert_eq!(replay.get_ref(), first.get_ref());
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn a_duplicate_in_flight_is_told_to_come_back() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let request = || with_key("k", order("stop", 5));
    let first = tokio::spawn(client.create(request()));
    shop.works.started().await;
    let refused = client.create(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(reason(&refused), "IN_FLIGHT");
    assert!(rpc::retry_delay(&refused).is_some_and(|delay| delay > 0));
    shop.works.let_go();
    first.await.unwrap().unwrap();
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn without_its_store_nothing_runs() {
    let shop = Shop::open();
    let client = shop.serve().await;
    shop.store.fail_always(Method::Claim, Fault::Unavailable);
    let refused = client
        .create(with_key("k", order("", 5)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(reason(&refused), "STORE_UNAVAILABLE");
    assert!(rpc::retry_delay(&refused).is_some_and(|delay| delay > 0));
    assert_eq!(shop.works.executed(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_whole_once_and_never_runs_again() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let request = || with_key("k", order("large", 5));
    let first = client.create(request()).await.unwrap();
    assert_eq!(first.get_ref().text.len(), 8192);
    let refused = client.create(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
    assert_eq!(reason(&refused), "NOT_REPLAYABLE");
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn a_body_that_hangs_is_stopped_at_its_deadline() {
    let mut shop = Shop::open();
    shop.deadline = Duration::from_millis(100);
    let client = shop.serve().await;
    let stopped = client.create(with_key("k", order("stop", 5))).await;
    let stopped = stopped.unwrap_err();
    assert_eq!(stopped.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&stopped), "DEADLINE_EXCEEDED");
    assert!(rpc::retry_delay(&stopped).is_some_and(|delay| delay > 0));
    assert_eq!(shop.works.executed(), 0);
    shop.works.let_go();
    client
        .create(with_key("k", order("stop", 5)))
        .await
        .unwrap();
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn steps_run_once_across_a_panic_and_a_code_that_frees_the_key() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let call = || client.create(with_key("k", order("steps", 5)));
    assert_eq!(call().await.unwrap_err().code(), Code::Internal);
    assert_eq!(call().await.unwrap_err().message(), "not yet");
    for _ in 0..2 {
        let answer = call().await.unwrap();
        assert_eq!(answer.get_ref().text, "held 1, charged 2");
    }
    assert_eq!(shop.works.executed(), 2);
}

#[tokio::test]
async fn a_panic_is_internal_and_the_next_attempt_runs() {
    let shop = Shop::open();
    let client = shop.serve().await;
    for executed in [1, 2] {
        let crashed = client.create(with_key("k", order("panic", 5))).await;
        let crashed = crashed.unwrap_err();
        assert_eq!(crashed.code(), Code::Internal);
        assert_eq!(reason(&crashed), "CRASHED");
        assert!(!crashed.message().contains("as asked"));
        assert_eq!(shop.works.executed(), executed);
    }
}

#[tokio::test]
async fn a_body_goes_on_when_its_client_has_gone() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let request = || with_key("k", order("stop", 5));
    let first = tokio::spawn(client.create(request()));
    shop.works.started().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    client.left(1).await;
    shop.works.let_go();
    shop.engine.idle().await;
    let replay = client.create(request()).await.unwrap();
    assert!(replay.metadata().contains_key("idempotent-replayed"));
    assert_eq!(shop.works.executed(), 1);
}

#[tokio::test]
async fn a_shutdown_waits_for_bodies_whose_clients_have_gone() {
    let shop = Shop::open();
    let client = shop.serve().await;
    let request = || with_key("k", order("stop", 5));
    let first = tokio::spawn(client.create(request()));
    shop.works.started().await;
    first.abort();
    client.left(1).await;
    client.stop().await;
    let mut idle = Box::pin(shop.engine.idle());
    assert!((&mut idle).now_or_never().is_none());
    shop.works.let_go();
    idle.await;
    assert_eq!(shop.works.executed(), 1);
    let replay = shop.serve().await.create(request()).await.unwrap();
    assert!(replay.metadata().contains_key("idempotent-replayed"));
}

#[tokio::test]
async fn who_hangs_up_while_waiting_never_runs() {
    let shop = Shop::open();
    let client = shop.serve().await;
    // It frees its key: whoever waits for it would run next.
    let call = || client.other(Request::new(order("stop", 0)));
    let first = tokio::spawn(call());
    shop.works.started().await;
    let waiters: Vec<_> = (0..20).map(|_| tokio::spawn(call())).collect();
    client.arrived(21).await;
    for waiter in waiters {
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
    }
    client.left(20).await;
    for _ in 0..21 {
        shop.works.let_go();
    }
    let freed = first.await.unwrap().unwrap_err();
    assert_eq!(freed.code(), Code::NotFound);
    assert_eq!(shop.works.executed(), 1);
    assert_eq!(call().await.unwrap_err().code(), Code::NotFound);
    assert_eq!(shop.works.executed(), 2);
}

/// Without a service there is nothing to clone.
#[idempotent(key = metadata("transfer-id"), ttl = "24h", engine = test_engine(), required = false)]
async fn free(_: Request<NewCharge>) -> Result<Response<Charge>, Status> {
    Ok(Response::new(Charge::default()))
}

fn test_engine() -> Engine {
    Engine::new(MemoryStore::new())
}

#[tokio::test]
async fn a_free_function_needs_no_key_where_none_is_required() {
    let answer = free(Request::new(order("", 1))).await.unwrap();
    assert_eq!(answer.into_inner(), Charge::default());
}

#[derive(Clone)]
struct Till<'a, B> {
    bank: B,
    engine: &'a Engine,
}

mod words {
    pub(crate) fn of(number: u64) -> String {
        number.to_string()
    }
}

impl<B: Fn(u64) -> u64 + Clone + Send + Sync + 'static> Till<'static, B> {
    #[idempotent(key = request.get_ref().note, ttl = "24h", name = "tonic.charge", engine = self.engine)]
    async fn charge(&self, mut request: Request<NewCharge>) -> Result<Response<Charge>, Status> {
        request.get_mut().amount += 1;
        let id = [request.get_ref().amount]
            .into_iter()
            .map(|amount| (self.bank)(amount))
            .sum();
        let text = self::words::of(id);
        Ok(Response::new(Charge { id, text }))
    }
}

#[tokio::test]
async fn any_method_of_the_shape_is_idempotent() {
    let works = Works::default();
    let bank = {
        let works = works.clone();
        move |amount| amount * 10 + u64::from(works.execute())
    };
    let engine: &'static Engine = Box::leak(Box::new(test_engine()));
    let till = Till { bank, engine };
    for _ in 0..2 {
        let charge = till.charge(Request::new(order("k", 4))).await.unwrap();
        assert_eq!(charge.into_inner().text, "51");
    }
    assert_eq!(works.executed(), 1);
}

#[test]
fn a_refusal_elsewhere_is_the_same_status() {
    let refused = idem::tonic::status(&idem::Error::Mismatch);
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason(&refused), "MISMATCH");
    assert_eq!(rpc::retry_delay(&refused), None);
}
