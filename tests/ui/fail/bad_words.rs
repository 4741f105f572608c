use idem::{Error, idempotent};

#[idempotent(key = id, ttl = "24h", in_flight = "retry")]
async fn in_flight(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", in_flight = "wait 5 apples")]
async fn in_flight_time(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", in_flight = wait)]
async fn in_flight_unquoted(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", on_crash = "retry")]
async fn on_crash(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", on_crash = refuse)]
async fn on_crash_unquoted(id: u64) -> Result<u64, Error> {
    Ok(id)
}

#[idempotent(key = id, ttl = "24h", errors = "keep")]
async fn errors(id: u64) -> Result<u64, Error> {
    Ok(id)
}

fn main() {
    drop((in_flight(1), in_flight_time(1), in_flight_unquoted(1)));
    drop((on_crash(1), on_crash_unquoted(1), errors(1)));
}
