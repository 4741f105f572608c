//! Spans and events of `tracing`, as OpenTelemetry has them.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Spans are sent in batches, by a thread of their own.
pub(crate) fn install() -> Result<SdkTracerProvider, TryInitError> {
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("shop").build())
        .with_batch_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    // At DEBUG, idem has a span for each call to the store, and an event for each decision.
    let traced = Targets::new()
        .with_target("telemetry", LevelFilter::INFO)
        .with_target("idem", LevelFilter::DEBUG);
    let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(traces.with_filter(traced))
        .with(log.with_filter(LevelFilter::INFO))
        .try_init()?;
    Ok(provider)
}

/// A span for each request, within the caller's trace. idem fills in what is empty: all requests of one
/// record are found by `idem.record`, which is a hash.
pub(crate) async fn in_a_span(request: Request, next: Next) -> Response {
    let span = info_span!(
        "request",
        otel.kind = "server",
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        http.response.status_code = Empty,
        idem.record = Empty,
        idem.decision = Empty,
        idem.first_claimed_at = Empty,
    );
    let caller = TraceContextPropagator::new().extract(&Headers(request.headers()));
    // Refused where nobody listens to the span.
    let _ = span.set_parent(caller);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
