use tonic::{Request, Response, Status};

#[derive(Clone)]
struct Bank;

impl Bank {
    #[idem::tonic::idempotent(key = metadata("idempotency-key"), ttl = "1h")]
    async fn charge(&self, request: Request<u64>) -> Result<Response<u64>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn main() {}
