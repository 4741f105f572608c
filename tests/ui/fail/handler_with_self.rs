use idem::axum::idempotent;

struct Shop;

impl Shop {
    #[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
    async fn create(&self, text: String) -> String {
        text
    }
}

fn main() {
    drop(Shop.create(String::new()));
}
