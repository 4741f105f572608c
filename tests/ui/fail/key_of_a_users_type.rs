use idem::{Error, idempotent};

struct Id(u64);

struct Order {
    id: Id,
    line: u32,
}

#[idempotent(key = (order.id, order.line), ttl = "24h", skip(order))]
async fn settle(order: Order) -> Result<u64, Error> {
    Ok(order.id.0 + u64::from(order.line))
}

fn main() {
    // The function is still there: no second error.
    drop(settle(Order { id: Id(1), line: 1 }));
}
