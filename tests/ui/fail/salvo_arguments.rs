//! What a salvo handler cannot take.

use idem::salvo::idempotent;
use salvo::extract::JsonBody;
use salvo::prelude::*;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn with_control(order: JsonBody<u64>, ctrl: &mut FlowCtrl) -> String {
    ctrl.skip_rest();
    order.into_inner().to_string()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn with_a_body_first(order: JsonBody<u64>, id: PathParam<u64>) -> String {
    format!("{} {}", order.into_inner(), id.into_inner())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn with_another_reference(name: &str) -> String {
    name.to_owned()
}

fn main() {}
