//! Numbers of the application's own, beside those of the server.

use prometheus_client::metrics::{counter, gauge};

use super::Metrics;

/// Something that an application counts; see [`Metrics::counter`]. Clones are the same counter.
#[derive(Clone, Debug, Default)]
pub struct Counter(counter::Counter);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }
}

/// Something that an application measures; see [`Metrics::gauge`]. Clones are the same gauge.
#[derive(Clone, Debug, Default)]
pub struct Gauge(gauge::Gauge);

impl Gauge {
    /// So many now.
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }
}

impl Metrics {
    /// A new counter of the application's own: `quicket_<name>_total`. To be called once for each name,
    /// when the application starts.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        let counter = Counter::default();
        self.registry.lock().register(name, help, counter.0.clone());
        counter
    }

    /// A new gauge of the application's own: `quicket_<name>`. To be called once for each name, when the
    /// application starts.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = Gauge::default();
        self.registry.lock().register(name, help, gauge.0.clone());
        gauge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_numbers_stand_beside_the_servers() {
        let metrics = Metrics::new("1");
        let counter = metrics.counter("app_things", "Things");
        metrics.gauge("app_size", "How large").set(-3);
        counter.clone().inc();
        let text = metrics.render();
        assert!(text.contains("\nquicket_app_things_total 1\n"), "{text}");
        assert!(text.contains("\nquicket_app_size -3\n"), "{text}");
        assert!(text.contains("\nquicket_sessions{"), "{text}");
    }
}
