//! A gRPC method's record is resolved with the answer that the method's type reads.

use idem::Engine;
use idem::tonic::idempotent;
use tonic::{Code, Request, Response, Status};

use crate::changes::engine;
use crate::tool::Tool;

#[derive(Clone)]
struct Desk {
    engine: Engine,
    crashes: bool,
}

impl Desk {
    #[idempotent(
        key = metadata("idempotency-key"),
        ttl = "24h",
        on_crash = "refuse",
        name = "rpc.refund",
        engine = self.engine.clone()
    )]
    async fn refund(&self, request: Request<String>) -> Result<Response<String>, Status> {
        assert!(!self.crashes, "as asked");
        Ok(Response::new(format!("refunded {}", request.get_ref())))
    }

    async fn call(&self, key: &str) -> Result<Response<String>, Status> {
        let mut request = Request::new("order 7".to_owned());
        let key = format!("\"{key}\"").parse().unwrap();
        request.metadata_mut().insert("idempotency-key", key);
        self.refund(request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_method_is_resolved_with_a_message_or_a_status() {
    let tool = Tool::over_sqlite();
    let mut desk = Desk {
        engine: engine(&tool).await,
        crashes: true,
    };
    for key in ["message", "status"] {
        assert_eq!(desk.call(key).await.unwrap_err().code(), Code::Internal);
    }
    desk.engine.idle().await;
    desk.crashes = false;
    let unknown = desk.call("message").await.unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition);

    let resolve = |key: &str, answer: &[&str]| {
        let named = ["resolve", "--operation", "rpc.refund", "--key", key];
        tool.json(&[&named, answer, &["--yes"]].concat())
    };
    let wrong = |answer: &[&str]| {
        let named = ["resolve", "--operation", "rpc.refund", "--key", "message"];
        tool.fails(2, &[&named, answer, &["--yes"]].concat());
    };
    // `google.protobuf.StringValue`: its first field, with its length.
    let message = tool.write("message.bin", "\n\u{7}by hand");
    wrong(&["--grpc-status", "0"]);
    wrong(&["--grpc-status", "17"]);
    wrong(&["--grpc-text", "why"]);
    wrong(&["--grpc-message", &message, "--status", "200"]);
    resolve("message", &["--grpc-message", &message]);
    let refused = ["--grpc-status", "9", "--grpc-text", "the card is closed"];
    resolve("status", &refused);

    let answer = desk.call("message").await.unwrap();
    assert_eq!(answer.get_ref(), "by hand");
    assert!(answer.metadata().contains_key("idempotent-replayed"));
    let status = desk.call("status").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "the card is closed")
    );
    assert!(status.metadata().contains_key("idempotent-replayed"));
}
