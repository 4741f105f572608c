use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use idem::idempotent;

#[derive(Clone)]
struct Bank;

#[derive(serde::Deserialize)]
struct NewCharge {
    id: String,
}

#[derive(serde::Serialize)]
struct Charge {
    id: u64,
}

#[idempotent(key = order.id, ttl = "24h")]
async fn create(
    State(bank): State<Bank>,
    Json(order): Json<NewCharge>,
) -> Result<(StatusCode, Json<Charge>), StatusCode> {
    let _ = (bank, order);
    Ok((StatusCode::CREATED, Json(Charge { id: 1 })))
}

#[idempotent(key = order.id, ttl = "24h")]
async fn whole(state: State<Bank>, order: Json<NewCharge>) -> impl axum::response::IntoResponse {
    let _ = (state, order);
}

fn main() {}
