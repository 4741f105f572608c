//! An error type that nobody can implement `From<idem::Error>` for.

use idem::idempotent;

#[derive(Debug)]
enum BookingError {
    NotRun(idem::Error),
    Io(std::io::Error),
}

impl From<idem::Error> for BookingError {
    fn from(error: idem::Error) -> Self {
        Self::NotRun(error)
    }
}

impl From<std::io::Error> for BookingError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

async fn hold() -> Result<u64, std::io::Error> {
    Ok(1)
}

#[idempotent(key = order, ttl = "1h", name = "trips.book")]
async fn book(order: u64) -> Result<u64, BookingError> {
    Ok(idem::step("hold", hold()).await? + order)
}

fn main() {}
