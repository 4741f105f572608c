//! One small operation in each form, and how a request gets to it.

#![allow(clippy::unused_async, reason = "handlers are asynchronous")]

use crate::case::Case;

pub(crate) async fn print_all(case: &Case) {
    function::print(case).await;
    #[cfg(feature = "http")]
    http::print(case).await;
    #[cfg(feature = "tower")]
    tower::print(case).await;
    #[cfg(feature = "axum")]
    axum::print(case).await;
    #[cfg(feature = "poem")]
    poem::print(case).await;
    #[cfg(feature = "salvo")]
    salvo::print(case).await;
    #[cfg(feature = "rocket")]
    rocket::print(case).await;
    #[cfg(feature = "warp")]
    warp::print(case).await;
    #[cfg(feature = "tonic")]
    tonic::print(case).await;
}

mod function {
    use crate::case::{Case, ENGINE};

    #[idem::idempotent(
        name = "function", key = key, scope = tenant, ttl = "1h", skip(key, tenant), engine = ENGINE
    )]
    async fn charge(
        key: &str,
        tenant: Option<&str>,
        amount: &str,
        options: Option<(u8, Vec<&str>)>,
    ) -> Result<(), idem::Error> {
        let _ = (amount, options);
        Ok(())
    }

    pub(crate) async fn print(case: &Case) {
        let options = Some((7, vec![case.path, case.host]));
        let charged = charge(case.name, case.tenant, case.body, options).await;
        charged.expect("nothing is refused");
        crate::case::print("function", "function", case).await;
    }
}

#[cfg(feature = "http")]
mod http {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;

    use crate::case::{Case, ENGINE, tenant};

    #[idem::http::idempotent(
        name = "http", key = header("Idempotency-Key"), scope = tenant(request.headers()),
        ttl = "1h", engine = ENGINE
    )]
    async fn charge(request: Request<Bytes>) -> Response<Full<Bytes>> {
        Response::new(Full::new(request.into_body()))
    }

    pub(crate) async fn print(case: &Case) {
        assert_eq!(charge(case.request::<Full<Bytes>>()).await.status(), 200);
        crate::case::print("request", "http", case).await;
    }
}

/// Any service, and one in a nested router that says where the path is, or does not.
#[cfg(feature = "tower")]
mod tower {
    use std::convert::Infallible;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::OriginalUri;
    use axum::response::Response;
    use idem::tower::IdempotencyLayer;
    use tower::{Layer, ServiceExt, service_fn};

    use crate::case::{Case, ENGINE, tenant};

    fn layer(name: &'static str) -> IdempotencyLayer {
        IdempotencyLayer::new(name, Duration::from_secs(3600))
            .engine(ENGINE.clone())
            .scope(|head| tenant(&head.headers))
    }

    pub(crate) async fn print(case: &Case) {
        let answer = async |_| Ok::<_, Infallible>(Response::new(Body::empty()));
        let service = layer("tower").layer(service_fn(answer));
        let answered = service.oneshot(case.request::<Body>()).await;
        let Ok(answered) = answered;
        assert_eq!(answered.status(), 200);
        crate::case::print("request", "tower", case).await;

        let original = layer("tower.nested").original_uri(|head| {
            let original = head.extensions.get::<OriginalUri>();
            original.map_or(&head.uri, |original| &original.0)
        });
        for (counts, operation, layer) in [
            ("request", "tower.nested", original),
            // What the router has taken away is not known, whoever else would know.
            ("stripped", "tower.stripped", layer("tower.stripped")),
        ] {
            let inside = Router::new().route("/", axum::routing::post(async || "charged"));
            let path = case.path.split('?').next().unwrap_or_default();
            let router = Router::new().nest(path, inside.layer(layer));
            let Ok(answered) = router.oneshot(case.request::<Body>()).await;
            assert_eq!(answered.status(), 200);
            crate::case::print(counts, operation, case).await;
        }
    }
}

/// A handler, and a layer inside of nested routers.
#[cfg(feature = "axum")]
mod axum {
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::http::HeaderMap;
    use axum::routing::post;
    use tower::ServiceExt;

    use crate::case::{Case, ENGINE, tenant};

    #[idem::axum::idempotent(
        name = "axum", key = header("Idempotency-Key"), scope = tenant(&headers), ttl = "1h",
        engine = ENGINE
    )]
    async fn charge(headers: HeaderMap, body: String) -> String {
        let _ = headers;
        body
    }

    async fn plain(body: String) -> String {
        body
    }

    pub(crate) async fn print(case: &Case) {
        let layer = idem::axum::layer(Duration::from_secs(3600))
            .engine(ENGINE.clone())
            .scope(|head| tenant(&head.headers));
        let layered = Router::new()
            .route("/", post(plain))
            .layer(layer.clone().name("axum.layer"));
        let handled = Router::new().route("/", post(charge));
        let routed = Router::new().route("/", post(plain)).layer(layer);
        let path = case.path.split('?').next().unwrap_or_default();
        let routes: &'static str = match path {
            "/charges" => "POST /charges",
            "/refunds" => "POST /refunds",
            _ => "POST /v1/charges",
        };
        for (operation, inside) in [("axum", handled), ("axum.layer", layered), (routes, routed)] {
            let router = Router::new().nest(path, inside);
            let Ok(answered) = router.oneshot(case.request::<Body>()).await;
            assert_eq!(answered.status(), 200);
            crate::case::print("request", operation, case).await;
        }
    }
}

#[cfg(feature = "actix")]
pub(crate) mod actix {
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpRequest, web};

    use crate::case::{Case, ENGINE, TENANT};

    fn tenant(request: &HttpRequest) -> Option<String> {
        let tenant = request.headers().get(TENANT)?;
        Some(tenant.to_str().ok()?.to_owned())
    }

    #[idem::actix::idempotent(
        name = "actix", key = header("Idempotency-Key"), scope = tenant(&request), ttl = "1h",
        engine = ENGINE
    )]
    async fn charge(request: HttpRequest, body: String) -> String {
        let _ = request;
        body
    }

    pub(crate) async fn print(case: &Case) {
        let path = case.path.split('?').next().unwrap_or_default();
        let scope = web::scope(path).route("", web::post().to(charge));
        let app = init_service(App::new().service(scope)).await;
        let request = TestRequest::post().uri(case.path).set_payload(case.body);
        let request = case
            .headers()
            .fold(request, |request, header| request.insert_header(header));
        let answered = call_service(&app, request.to_request()).await;
        assert_eq!(answered.status().as_u16(), 200);
        crate::case::print("request", "actix", case).await;
    }
}

#[cfg(feature = "poem")]
mod poem {
    use poem::http::HeaderMap;
    use poem::{Endpoint, Request, Route, handler, post};

    use crate::case::{Case, ENGINE, tenant};

    #[idem::poem::idempotent(
        name = "poem", key = header("Idempotency-Key"), scope = tenant(headers), ttl = "1h",
        engine = ENGINE
    )]
    #[handler]
    async fn charge(headers: &HeaderMap, body: String) -> String {
        let _ = headers;
        body
    }

    pub(crate) async fn print(case: &Case) {
        let path = case.path.split('?').next().unwrap_or_default();
        let route = Route::new().at(path, post(charge));
        let request = Request::builder()
            .method(poem::http::Method::POST)
            .uri_str(case.path);
        let request = case
            .headers()
            .fold(request, |request, (name, value)| {
                request.header(name, value)
            })
            .body(case.body);
        let answered = route.get_response(request).await;
        assert_eq!(answered.status().as_u16(), 200);
        crate::case::print("request", "poem", case).await;
    }
}

#[cfg(feature = "salvo")]
mod salvo {
    use salvo::prelude::*;
    use salvo::test::TestClient;

    use crate::case::{Case, ENGINE, tenant};

    #[idem::salvo::idempotent(
        name = "salvo", key = header("Idempotency-Key"), scope = tenant(req.headers()), ttl = "1h",
        engine = ENGINE
    )]
    #[handler]
    async fn charge(req: &mut Request) -> String {
        let body = req.payload().await;
        body.map_or(String::new(), |body| {
            String::from_utf8_lossy(body).into_owned()
        })
    }

    pub(crate) async fn print(case: &Case) {
        let path = case.path.split('?').next().unwrap_or_default();
        let router = Router::with_path(path).push(Router::new().post(charge));
        let request = TestClient::post(format!("http://{}{}", case.host, case.path));
        let request = case.headers().fold(request, |request, (name, value)| {
            request.add_header(name, value, true)
        });
        let answered = request.body(case.body).send(&Service::new(router)).await;
        assert_eq!(answered.status_code, Some(StatusCode::OK));
        crate::case::print("request", "salvo", case).await;
    }
}

#[cfg(feature = "rocket")]
mod rocket {
    use idem::rocket::{IdempotencyKey, Reply};
    use rocket::http::Header;
    use rocket::local::asynchronous::Client;
    use rocket::request::{FromRequest, Outcome, Request};
    use rocket::{post, routes};

    use crate::case::{Case, ENGINE, TENANT};

    struct Tenant<'r>(Option<&'r str>);

    #[rocket::async_trait]
    impl<'r> FromRequest<'r> for Tenant<'r> {
        type Error = std::convert::Infallible;

        async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Self::Error> {
            Outcome::Success(Self(request.headers().get_one(TENANT)))
        }
    }

    #[post("/", data = "<body>")]
    #[idem::idempotent(
        name = "rocket", key = key, scope = tenant.0, ttl = "1h", skip(tenant), engine = ENGINE
    )]
    async fn charge<'r>(key: IdempotencyKey<'r>, tenant: Tenant<'r>, body: String) -> Reply<'r> {
        key.reply(body).await
    }

    pub(crate) async fn print(case: &Case) {
        let path = case.path.split('?').next().unwrap_or_default();
        let figment = rocket::Config::figment().merge(("log_level", "off"));
        let rocket = rocket::custom(figment).mount(path, routes![charge]);
        let client = Client::untracked(rocket).await.expect("Rocket starts");
        let request = case
            .headers()
            .fold(client.post(case.path), |request, (name, value)| {
                request.header(Header::new(name, value))
            });
        let answered = request.body(case.body).dispatch().await;
        assert_eq!(answered.status().code, 200);
        crate::case::print("rocket", "rocket", case).await;
    }
}

#[cfg(feature = "warp")]
mod warp {
    use idem::warp::{IdempotencyKey, Reply};
    use warp::Filter;

    use crate::case::{Case, ENGINE, TENANT};

    #[idem::idempotent(
        name = "warp", key = key, scope = tenant, ttl = "1h", skip(tenant), engine = ENGINE
    )]
    async fn charge(key: IdempotencyKey, tenant: Option<String>, body: String) -> Reply {
        Reply::of(body)
    }

    pub(crate) async fn print(case: &Case) {
        let body = warp::body::bytes()
            .map(|body: bytes::Bytes| String::from_utf8_lossy(&body).into_owned());
        let route = warp::post()
            .and(idem::warp::key())
            .and(warp::header::optional::<String>(TENANT))
            .and(body)
            .then(charge);
        let request = warp::test::request().method("POST").path(case.path);
        let request = case.headers().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        let answered = request.body(case.body).reply(&route).await;
        assert_eq!(answered.status().as_u16(), 200);
        crate::case::print("warp", "warp", case).await;
    }
}

#[cfg(feature = "tonic")]
mod tonic {
    use tonic::metadata::{AsciiMetadataKey, MetadataMap};
    use tonic::{Request, Response, Status};

    use crate::case::{Case, ENGINE, TENANT};

    fn tenant(metadata: &MetadataMap) -> Option<String> {
        let tenant = metadata.get(TENANT)?;
        Some(tenant.to_str().ok()?.to_owned())
    }

    #[idem::tonic::idempotent(
        name = "tonic", key = metadata("idempotency-key"), scope = tenant(request.metadata()),
        ttl = "1h", engine = ENGINE
    )]
    async fn charge(request: Request<String>) -> Result<Response<String>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    pub(crate) async fn print(case: &Case) {
        let mut request = Request::new(case.body.to_owned());
        for (name, value) in case.headers() {
            let name = AsciiMetadataKey::from_static(name);
            let value = value.parse().expect("metadata");
            request.metadata_mut().insert(name, value);
        }
        charge(request).await.expect("nothing is refused");
        crate::case::print("tonic", "tonic", case).await;
    }
}
