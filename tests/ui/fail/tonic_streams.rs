use idem::tonic::idempotent;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone)]
struct Shop;

type Charges = std::pin::Pin<Box<dyn Send>>;

impl Shop {
    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.upload")]
    async fn upload(&self, request: Request<Streaming<u64>>) -> Result<Response<u64>, Status> {
        let _ = request;
        Ok(Response::new(1))
    }

    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.list")]
    async fn list(&self, request: Request<u64>) -> Result<Response<Charges>, Status> {
        let _ = request;
        Ok(Response::new(Box::pin(())))
    }
}

fn main() {}
