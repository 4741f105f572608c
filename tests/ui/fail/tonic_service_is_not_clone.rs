use idem::tonic::idempotent;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
trait Charges {
    async fn create(&self, request: Request<u64>) -> Result<Response<u64>, Status>;
}

struct Shop;

#[tonic::async_trait]
impl Charges for Shop {
    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.create")]
    async fn create(&self, request: Request<u64>) -> Result<Response<u64>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

impl Shop {
    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.refund")]
    async fn refund(&self, request: Request<u64>) -> Result<Response<u64>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn main() {}
