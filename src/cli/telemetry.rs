//! The log on standard error, and with the feature `otel` spans for a collector of OpenTelemetry.

use std::io::Write as _;
use std::sync::OnceLock;

use serde_json::json;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::waiting::Stderr;
use super::{LogForm, is_coloured};

/// The form of the log, once it has one.
static FORM: OnceLock<LogForm> = OnceLock::new();

/// Whether the log is one of JSON.
pub(super) fn is_json() -> bool {
    matches!(FORM.get(), Some(LogForm::Json))
}

/// Tells the user something on standard error, in the form of the log.
pub(super) fn say(level: &str, text: &str) {
    let text = match is_json() {
        true => {
            let message = text.strip_prefix("bioxen: ").unwrap_or(text);
            json!({"timestamp": now(), "level": level, "message": message, "target": "bioxen"})
                .to_string()
        }
        false => text.to_owned(),
    };
    // There is nobody left to tell when even this cannot be written.
    let _ = Stderr::new().write_all(format!("{text}\n").as_bytes());
}

/// The time: RFC 3339, UTC.
pub(super) fn now() -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// Begins to tell what goes on. What is given back is to be ended with the program.
pub(super) fn start(verbose: u8, form: LogForm) -> anyhow::Result<Telemetry> {
    let log = log(verbose, FORM.get_or_init(|| form));
    #[cfg(feature = "otel")]
    {
        let spans = otel::provider()?;
        let layer = spans.as_ref().map(otel::layer);
        tracing_subscriber::registry().with(log).with(layer).init();
        Ok(Telemetry { spans })
    }
    #[cfg(not(feature = "otel"))]
    {
        tracing_subscriber::registry().with(log).init();
        Ok(Telemetry {})
    }
}

/// What tells what goes on.
pub(super) struct Telemetry {
    #[cfg(feature = "otel")]
    spans: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Telemetry {
    /// Waits until all that was told has arrived.
    pub(super) fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(Err(error)) = self.spans.map(|spans| spans.shutdown()) {
            super::warn(&format!(
                "not all spans have reached the collector: {error}"
            ));
        }
    }
}

fn log(verbose: u8, form: &LogForm) -> Box<dyn Layer<Registry> + Send + Sync> {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("BIOXEN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt::layer().with_writer(Stderr::new);
    match form {
        LogForm::Text => {
            let text = log
                .with_ansi(is_coloured(&std::io::stderr()))
                .with_target(false);
            text.with_filter(filter).boxed()
        }
        LogForm::Json => log.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

#[cfg(feature = "otel")]
mod otel {
    use anyhow::Context as _;
    use opentelemetry::KeyValue;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_otlp::SpanExporter;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::Subscriber;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::registry::LookupSpan;

    const ENDPOINTS: [&str; 2] = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];

    /// Sends spans to the collector that the environment names, if it does. The variables are those
    /// of OpenTelemetry.
    pub(super) fn provider() -> anyhow::Result<Option<SdkTracerProvider>> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let Some(variable) = ENDPOINTS.into_iter().find(|name| is_set(name)) else {
            return Ok(None);
        };
        // Somebody else's choice would do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder()
            .with_http()
            .build()
            .with_context(|| format!("cannot send spans to the collector that {variable} names"))?;
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if !is_set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("bioxen");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build());
        Ok(Some(provider.build()))
    }

    /// Our own spans, down to those of single calls.
    pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let ours = Targets::new()
            .with_target("bioxen", LevelFilter::DEBUG)
            .with_target("xapi_client", LevelFilter::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("bioxen"))
            .with_filter(ours)
    }
}
