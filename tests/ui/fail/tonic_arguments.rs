use idem::tonic::idempotent;
use tonic::{Request, Response, Status};

type Answer = Result<Response<u64>, Status>;

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
async fn header(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(key = metadata("Idempotency-Key"), ttl = "24h")]
async fn upper_case(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(key = metadata("key-bin"), ttl = "24h")]
async fn binary(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(key = metadata(KEY), ttl = "24h")]
async fn no_literal(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(key = metadata("idempotency-key"), ttl = "24h", release(503))]
async fn status(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(key = metadata("idempotency-key"), ttl = "24h", release(OK))]
async fn success(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(key = metadata("idempotency-key"), ttl = "24h", transaction = pool, skip(request))]
async fn function_form(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

#[idempotent(ttl = "24h")]
async fn no_key(request: Request<u64>) -> Answer {
    Ok(Response::new(request.into_inner()))
}

fn main() {}
