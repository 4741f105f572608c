use axum::Router;
use axum::routing::post;
use idem::axum::idempotent;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn create(text: String) -> String {
    let shared = std::rc::Rc::new(text);
    std::future::ready(()).await;
    shared.to_string()
}

fn main() {
    let _: Router = Router::new().route("/", post(create));
}
