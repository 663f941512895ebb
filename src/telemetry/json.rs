//! Log lines as JSON objects, for machines: the fields of spans stand beside those of the event.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// One object a line. `namespace` and `name` are found in the same place, whether an event has them or the visit that it is of.
pub(super) struct Flat;

#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    timestamp: String,
    level: &'a str,
    message: Value,
    #[serde(flatten)]
    fields: Map<String, Value>,
    target: &'a str,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for Flat {
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(own) = span.extensions().get::<FormattedFields<JsonFields>>() {
                fields.extend(object(own));
            }
        }
        let mut own = String::new();
        JsonFields::new().format_fields(Writer::new(&mut own), event)?;
        fields.extend(object(&own));
        let metadata = event.metadata();
        let line = Line {
            timestamp: jiff::Timestamp::try_from(SystemTime::now()).map_err(|_| fmt::Error)?.to_string(),
            level: metadata.level().as_str(),
            message: fields.remove("message").unwrap_or_default(),
            fields,
            target: metadata.target(),
        };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// Fields, as [`JsonFields`] writes them.
fn object(fields: &str) -> Map<String, Value> {
    serde_json::from_str(fields).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing::{info, warn};

    use super::*;
    use crate::telemetry::visit;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that `work` logs with this filter, without times.
    fn logged(filter: &str, work: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let logs = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || writer.clone())
            .json()
            .event_format(Flat)
            .finish();
        tracing::subscriber::with_default(logs, work);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let without_time = lines.map(|mut line| {
            let time: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
            assert!(time.as_second() > 1_700_000_000, "{time}");
            line.as_object_mut().unwrap().remove("timestamp");
            line
        });
        without_time.collect()
    }

    #[test]
    fn each_line_of_a_visit_has_its_namespace_name_and_uid_and_no_other_lines_have() {
        let lines = logged("info", || {
            info!(replicas = 2, "begins");
            visit(Some("shop"), "reviews", Some("u-1")).in_scope(|| {
                info!(step = "Post", "decided");
                visit(None, "cluster-wide", None).in_scope(|| info!("is another visit"));
            });
            info!(namespace = "home", name = "own", "ends");
        });
        let target = module_path!();
        let line = |message: &str, fields: Value| {
            let mut line = json!({"level": "INFO", "message": message, "target": target});
            line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            line
        };
        assert_eq!(
            lines,
            [
                line("begins", json!({"replicas": 2})),
                line("decided", json!({"namespace": "shop", "name": "reviews", "uid": "u-1", "step": "Post"})),
                line("is another visit", json!({"name": "cluster-wide"})),
                line("ends", json!({"namespace": "home", "name": "own"})),
            ]
        );
    }

    #[test]
    fn a_warning_says_whose_it_is_where_nothing_less_is_logged() {
        let lines = logged("warn", || visit(Some("shop"), "reviews", None).in_scope(|| warn!("a step failed")));
        assert_eq!((&lines[0]["namespace"], &lines[0]["name"]), (&json!("shop"), &json!("reviews")));
    }
}
