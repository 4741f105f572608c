use idem::idempotent;

#[idempotent(key = id, ttl = "24h")]
struct Order {
    id: u64,
}

#[idempotent(key = id, ttl = "24h")]
impl Order {
    fn id(&self) -> u64 {
        self.id
    }
}

fn main() {
    println!("{}", Order { id: 1 }.id());
}
