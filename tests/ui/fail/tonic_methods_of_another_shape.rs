use idem::tonic::idempotent;
use tonic::{Request, Response, Status};

#[derive(Clone)]
struct Shop;

impl Shop {
    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.exclusive")]
    async fn exclusive(&mut self, request: Request<u64>) -> Result<Response<u64>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.without")]
    async fn without(&self) -> Result<Response<u64>, Status> {
        Ok(Response::new(1))
    }

    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.two")]
    async fn two(&self, request: Request<u64>, _: u64) -> Result<Response<u64>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.nothing")]
    async fn nothing(&self, request: Request<u64>) {
        let _ = request;
    }

    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.not_async")]
    fn not_async(&self, request: Request<u64>) -> Result<Response<u64>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    #[idempotent(key = metadata("idempotency-key"), ttl = "24h", name = "bank.no_response")]
    async fn no_response(&self, request: Request<u64>) -> Result<u64, Status> {
        Ok(request.into_inner())
    }
}

fn main() {}
