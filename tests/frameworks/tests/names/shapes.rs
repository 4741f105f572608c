//! Every shape of annotated function declares its operation, although nobody calls it: for each
//! there is a function of the same name, whose calls are refused.

#![allow(dead_code, reason = "that they are there is enough")]

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use idem::{Error, idempotent};

use crate::{Desk, assert_name_taken};

#[idempotent(key = id, ttl = "1h", name = "shapes.generic", skip(value))]
async fn generic<T, const N: usize>(id: u8, value: [T; N]) -> Result<usize, Error> {
    Ok(usize::from(id) + value.len())
}

#[idempotent(key = id, ttl = "1h", name = "shapes.lifetimes")]
async fn lifetimes<'a>(id: &'a str, note: &'a str) -> Result<usize, Error> {
    Ok(id.len() + note.len())
}

#[idempotent(key = id, ttl = "1h", name = "shapes.impl_trait", skip(note))]
async fn impl_trait(id: u8, note: impl AsRef<str> + Send) -> Result<usize, Error> {
    Ok(usize::from(id) + note.as_ref().len())
}

struct Card<T>(T);

impl<T: Sync> Card<T> {
    #[idempotent(key = id, ttl = "1h", name = "shapes.of_a_generic_type")]
    async fn method(&self, id: u8) -> Result<u8, Error> {
        let _ = &self.0;
        Ok(id)
    }

    #[idempotent(key = id, ttl = "1h", name = "shapes.generic_method", skip(value))]
    async fn generic_method<U>(self: Arc<Self>, id: u8, value: U) -> Result<u8, Error> {
        drop(value);
        Ok(id)
    }
}

trait Settle {
    async fn settle(&self, id: u8) -> Result<u8, Error>;

    #[idempotent(key = id, ttl = "1h", name = "shapes.default_method")]
    async fn by_default(&self, id: u8) -> Result<u8, Error> {
        Ok(id)
    }
}

impl<T> Settle for Card<T> {
    #[idempotent(key = id, ttl = "1h", name = "shapes.trait_method")]
    async fn settle(&self, id: u8) -> Result<u8, Error> {
        Ok(id)
    }
}

#[async_trait]
trait Boxed {
    async fn boxed(&mut self, id: u8) -> Result<u8, Error>;
}

#[async_trait]
impl<T: Send> Boxed for Card<T> {
    #[idempotent(key = id, ttl = "1h", name = "shapes.async_trait_method")]
    async fn boxed(&mut self, id: u8) -> Result<u8, Error> {
        Ok(id)
    }
}

fn outer<T>(_: T) {
    #[idempotent(key = id, ttl = "1h", name = "shapes.within_a_generic_function")]
    async fn inner(id: u8) -> Result<u8, Error> {
        Ok(id)
    }
    struct Within;
    impl Within {
        #[idempotent(key = id, ttl = "1h", name = "shapes.within_a_function")]
        async fn method(self: Pin<&mut Self>, id: u8) -> Result<u8, Error> {
            Ok(id)
        }
    }
}

const _: () = {
    #[idempotent(key = id, ttl = "1h", name = "shapes.within_a_constant")]
    async fn inner(id: u8) -> Result<u8, Error> {
        Ok(id)
    }
};

#[tracing::instrument]
#[idempotent(key = id, ttl = "1h", name = "shapes.below_another_attribute")]
async fn below(id: u8) -> Result<u8, Error> {
    Ok(id)
}

#[axum::debug_handler]
#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "shapes.axum")]
async fn axum_handler(body: String) -> String {
    body
}

#[actix_web::post("/")]
#[idem::actix::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "shapes.actix")]
async fn actix_handler(body: String) -> String {
    body
}

#[idem::poem::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "shapes.poem")]
#[poem::handler]
async fn poem_handler<T>(given: poem::web::Data<&T>, body: String) -> String
where
    T: Send + Sync + 'static,
{
    let _ = given;
    body
}

#[idem::salvo::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "shapes.salvo")]
#[salvo::handler]
async fn salvo_handler(request: &mut salvo::Request) -> String {
    request.uri().to_string()
}

#[idem::http::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "shapes.http")]
async fn http_function(request: http::Request<bytes::Bytes>) -> http::Response<String> {
    http::Response::new(request.uri().to_string())
}

#[tonic::async_trait]
trait Service {
    async fn call(
        &self,
        request: tonic::Request<u64>,
    ) -> Result<tonic::Response<u64>, tonic::Status>;
}

#[tonic::async_trait]
impl<T: Clone + Send + Sync + 'static> Service for Card<T>
where
    Self: Clone,
{
    #[idem::tonic::idempotent(key = metadata("idempotency-key"), ttl = "1h", name = "shapes.tonic")]
    async fn call(
        &self,
        request: tonic::Request<u64>,
    ) -> Result<tonic::Response<u64>, tonic::Status> {
        Ok(tonic::Response::new(request.into_inner()))
    }
}

macro_rules! namesakes {
    ($($shape:ident: $name:literal;)*) => {$(
        #[idempotent(key = id, ttl = "1h", name = $name, skip(desk), engine = desk.engine)]
        async fn $shape(desk: &Desk, id: u8) -> Result<u32, Error> {
            assert_eq!(id, 1);
            Ok(desk.run())
        }
    )*

        #[tokio::test]
        async fn every_shape_declares_its_operation_without_being_called() {
            let desk = Desk::new();
            $(assert_name_taken(&desk, $shape(&desk, 1).await);)*
        }
    };
}

namesakes! {
    of_generic: "shapes.generic";
    of_lifetimes: "shapes.lifetimes";
    of_impl_trait: "shapes.impl_trait";
    of_a_generic_types_method: "shapes.of_a_generic_type";
    of_generic_method: "shapes.generic_method";
    of_trait_method: "shapes.trait_method";
    of_default_method: "shapes.default_method";
    of_async_trait_method: "shapes.async_trait_method";
    of_one_within_a_generic_function: "shapes.within_a_generic_function";
    of_one_within_a_function: "shapes.within_a_function";
    of_one_within_a_constant: "shapes.within_a_constant";
    of_one_below_another_attribute: "shapes.below_another_attribute";
    of_axum: "shapes.axum";
    of_actix: "shapes.actix";
    of_poem: "shapes.poem";
    of_salvo: "shapes.salvo";
    of_http: "shapes.http";
    of_tonic: "shapes.tonic";
    of_a_library: "idem_tests.settle";
}
