//! salvo 1.

use std::sync::Arc;

use idem::salvo::idempotent;
use salvo::conn::Acceptor;
use salvo::extract::{JsonBody, Metadata};
use salvo::http::header::{HeaderName, HeaderValue};
use salvo::http::{ResBody, StatusError};
use salvo::prelude::*;
use tokio::sync::Notify;

use crate::app::{App, Content, Order, Reply};
use crate::works::Works;
use crate::{Framework, Running};

pub(crate) struct Salvo;

impl Framework for Salvo {
    const NAME: &'static str = "salvo 1";
    const REFUSING: &'static str = "salvo.refusing";

    async fn start(app: App) -> Running {
        let engine = app.engine.clone();
        let at = Router::with_path;
        let router = Router::new()
            .hoop(Around(app))
            .push(at("charges").post(charge))
            .push(at("echo").post(echo).put(echo))
            .push(at("echo/other").post(echo).put(echo))
            .push(at("counted").post(counted).put(counted))
            .push(at("counted/other").post(counted).put(counted))
            .push(at("refunds").post(refund))
            .push(at("optional").post(optional))
            .push(at("guarded").post(guarded))
            .push(at("slow").post(slow).put(slow))
            .push(at("slow/other").post(slow).put(slow))
            .push(at("slow-optional").post(slow_optional))
            .push(at("waiting").post(waiting))
            .push(at("attaching").post(attaching))
            .push(at("hanging").post(hanging))
            .push(at("panics-once").post(panics_once))
            .push(at("panics-and-refuses").post(panics_and_refuses))
            .push(at("status").post(status))
            .push(at("releases-500").post(releases_500))
            .push(at("nothing-happened").post(nothing_happened))
            .push(at("scoped").post(scoped))
            .push(at("respond").post(respond))
            .push(at("v1").push(at("echo").post(echo)))
            .push(at("v2").push(at("echo").post(echo)));
        let acceptor = TcpListener::new("127.0.0.1:0").bind().await;
        let address = acceptor.holdings()[0]
            .local_addr
            .clone()
            .into_std()
            .unwrap();
        let server = Server::new(acceptor);
        let handle = server.handle();
        let told = Arc::<Notify>::default();
        let signal = Arc::clone(&told);
        tokio::spawn(async move {
            signal.notified().await;
            handle.stop_graceful(None);
        });
        let ended = tokio::spawn(server.serve(router));
        Running::until(told, address, ended, engine)
    }
}

/// The state, and who leaves.
struct Around(App);

#[async_trait]
impl Handler for Around {
    async fn handle(
        &self,
        req: &mut Request,
        depot: &mut Depot,
        res: &mut Response,
        ctrl: &mut FlowCtrl,
    ) {
        let App { engine, works } = self.0.clone();
        let _leaving = works.leaving();
        depot.insert_typed(engine).insert_typed(works);
        ctrl.call_next(req, depot, res).await;
    }
}

fn works(depot: &Depot) -> Works {
    depot.get_typed::<Works>().unwrap().clone()
}

async fn text(req: &mut Request) -> String {
    let bytes = req.payload_with_max_size(usize::MAX).await.unwrap();
    String::from_utf8_lossy(bytes).into_owned()
}

impl Scribe for Reply {
    fn render(self, res: &mut Response) {
        res.status_code(StatusCode::from_u16(self.status).unwrap());
        for (name, value) in self.headers {
            let name = HeaderName::from_static(name);
            res.headers_mut()
                .append(name, HeaderValue::from_bytes(&value).unwrap());
        }
        match self.body {
            Content::Whole(bytes) => {
                res.body(ResBody::Once(bytes));
            }
            Content::Streamed(chunks) => res.stream(chunks),
        }
    }
}

struct Login;

impl<'ex> salvo::Extractible<'ex> for Login {
    fn metadata() -> &'static Metadata {
        static METADATA: Metadata = Metadata::new("");
        &METADATA
    }

    #[allow(refining_impl_trait)]
    async fn extract(req: &'ex mut Request, _: &'ex mut Depot) -> Result<Self, StatusError> {
        let login = req.headers().get("authorization");
        login.map(|_| Self).ok_or_else(StatusError::unauthorized)
    }
}

struct Tenant(String);

impl<'ex> salvo::Extractible<'ex> for Tenant {
    fn metadata() -> &'static Metadata {
        static METADATA: Metadata = Metadata::new("");
        &METADATA
    }

    #[allow(refining_impl_trait)]
    async fn extract(req: &'ex mut Request, _: &'ex mut Depot) -> Result<Self, StatusError> {
        let tenant = req.header::<String>("x-tenant");
        tenant.map(Self).ok_or_else(StatusError::unauthorized)
    }
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn charge(order: JsonBody<Order>, depot: &mut Depot) -> Reply {
    works(depot).charge(order.into_inner())
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn echo(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).echo(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", fingerprint(req.header::<usize>("content-length")))]
#[handler]
async fn counted(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).echo(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn refund(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).echo(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
#[handler]
async fn optional(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).echo(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn guarded(_login: Login, req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).echo(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn slow(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).slow(&text(req).await).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", required = false)]
#[handler]
async fn slow_optional(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).slow(&text(req).await).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
#[handler]
async fn waiting(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).slow(&text(req).await).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "attach 5s")]
#[handler]
async fn attaching(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).respond(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", deadline = "100ms")]
#[handler]
async fn hanging(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).hang(&text(req).await).await
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", in_flight = "wait 5s")]
#[handler]
async fn panics_once(depot: &mut Depot) -> Reply {
    works(depot).panic_once().await
}

#[idempotent(name = "salvo.refusing", key = header("Idempotency-Key"), ttl = "24h", on_crash = "refuse")]
#[handler]
async fn panics_and_refuses(depot: &mut Depot) -> Reply {
    works(depot).panic_always()
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn status(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).status(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h", release(500))]
#[handler]
async fn releases_500(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).status(&text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn nothing_happened(depot: &mut Depot) -> Reply {
    works(depot).release()
}

#[idempotent(key = header("Idempotency-Key"), scope = tenant.0, ttl = "24h")]
#[handler]
async fn scoped(tenant: Tenant, req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).tenant(&tenant.0, &text(req).await)
}

#[idempotent(key = header("Idempotency-Key"), ttl = "24h")]
#[handler]
async fn respond(req: &mut Request, depot: &mut Depot) -> Reply {
    works(depot).respond(&text(req).await)
}
