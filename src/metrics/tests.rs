//! What `/metrics` shows.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A strict reader of OpenMetrics text (1.0, section "Overall Structure"): series by name and
/// labels.
fn read(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    let (mut families, mut series) = (BTreeMap::new(), BTreeMap::new());
    let mut current = String::new();
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap().to_owned());
            let rest = words.next().unwrap();
            match what {
                "HELP" => assert!(!rest.is_empty() && !families.contains_key(&name), "{line}"),
                "TYPE" => {
                    assert!(matches!(rest, "counter" | "gauge"), "{line}");
                    families.insert(name.clone(), rest.to_owned());
                }
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            current = name;
            continue;
        }
        let (key, value) = line.rsplit_once(' ').expect("a sample has a value");
        let (name, labels) = key.split_once('{').map_or((key, ""), |(name, rest)| {
            (name, rest.strip_suffix('}').expect("labels are closed"))
        });
        let suffix = if families[&current] == "counter" { "_total" } else { "" };
        assert_eq!(name, format!("{current}{suffix}"), "a sample stands under its family");
        assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{name}");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").expect("a label has a value");
            assert!(name.bytes().all(|c| c.is_ascii_lowercase()), "{line}");
            assert!(value.strip_suffix('"').is_some_and(|value| !value.contains('"')), "{line}");
        }
        let known = series.insert(key.to_owned(), value.parse().expect("a value is a number"));
        assert_eq!(known, None, "{key} is there twice");
    }
    series
}

fn at_start() -> Metrics {
    Metrics::new("1.2.3")
}

#[test]
fn every_name_is_rendered_from_the_start() {
    let series = read(&at_start().render());
    let names: BTreeSet<_> = series.keys().filter_map(|key| key.split('{').next()).collect();
    let expected = "broadcasts_total build_info bus_connected bus_gaps_total bus_lag_ms \
        bus_local_deliveries_total bus_malformed_total bus_published_total bus_queue_bytes \
        bus_queue_messages bus_received_total bus_reconnects_total bus_refusals_total \
        bus_requests_lost_total bus_skipped_total bytes_received_total bytes_sent_total \
        certificate_failures_total certificate_not_after_seconds certificate_renewals_total \
        connections_refused_total deliveries_total \
        events_replayed_total file_descriptors file_descriptors_hard_limit \
        file_descriptors_soft_limit handler_errors_total handler_panics_total \
        handshakes_refused_total handshakes_waiting http_requests_refused_total inbox_pauses_total \
        jwt_keys_failures_total jwt_keys_read_seconds \
        limits_hit_total \
        outbox_bytes outbox_overflows_total packets_received_total packets_sent_total peer_misbehaved_total \
        phase pings_unanswered_total \
        quic_retries_total recoveries_refused_total recoveries_total sessions sessions_closed_total \
        sessions_drained_total sessions_fenced_total sessions_opened_total sockets takeovers_total \
        tokens_refused_total upgrades_total volatile_dropped_total";
    let expected = expected.split_whitespace().map(|name| format!("quicket_{name}"));
    assert_eq!(
        names.into_iter().map(str::to_owned).collect::<Vec<_>>(),
        expected.collect::<Vec<_>>()
    );
    let other_than_zero = series.iter().filter(|(_, value)| **value != 0.0).map(|(key, _)| key);
    assert!(other_than_zero.eq(["quicket_build_info{version=\"1.2.3\"}"]));
}

/// Each label counts on its own series, and only there.
fn counts<L: Label>(name: &str, of: fn(&Metrics) -> &By<L, Counter>) {
    for label in L::ALL {
        let metrics = at_start();
        of(&metrics)[*label].inc_by(7);
        let series = read(&metrics.render());
        let counted: Vec<_> = series.iter().filter(|(_, value)| **value == 7.0).collect();
        let key = format!("quicket_{name}_total{{{}=\"{}\"}}", L::NAME, label.value());
        assert_eq!(counted, [(&key, &7.0)]);
    }
}

#[test]
fn every_label_counts_on_its_own_series() {
    counts("sessions_closed", |metrics| &metrics.sessions_closed);
    counts("handshakes_refused", |metrics| &metrics.handshakes_refused);
    counts("peer_misbehaved", |metrics| &metrics.peer_misbehaved);
    counts("tokens_refused", |metrics| &metrics.tokens_refused);
    counts("packets_received", |metrics| &metrics.packets_received);
    counts("packets_sent", |metrics| &metrics.packets_sent);
    counts("bytes_received", |metrics| &metrics.bytes_received);
    counts("bytes_sent", |metrics| &metrics.bytes_sent);
    counts("limits_hit", |metrics| &metrics.limits.hit);
}

#[test]
fn every_plain_counter_counts_under_its_own_name() {
    type Get = fn(&Metrics) -> &Counter;
    let counters: [(&str, Get); 13] = [
        ("certificate_failures", |m| &m.certificate.failures),
        ("certificate_renewals", |m| &m.certificate.renewals),
        ("connections_refused", |m| &m.descriptors.refused),
        ("http_requests_refused", |m| &m.http_requests_refused),
        ("pings_unanswered", |m| &m.pings_unanswered),
        ("broadcasts", |m| &m.broadcasts),
        ("deliveries", |m| &m.deliveries),
        ("volatile_dropped", |m| &m.volatile_dropped),
        ("outbox_overflows", |m| &m.outbox_overflows),
        ("inbox_pauses", |m| &m.inbox_pauses),
        ("handler_errors", |m| &m.handler_errors),
        ("handler_panics", |m| &m.handler_panics),
        ("jwt_keys_failures", |m| &m.keys.failures),
    ];
    let metrics = at_start();
    for (at, (_, get)) in (1..).zip(counters) {
        get(&metrics).inc_by(at);
    }
    metrics.sockets.inc();
    metrics.certificate.not_after.set(2_000_000_000);
    let series = read(&metrics.render());
    for (at, (name, _)) in (1_u8..).zip(counters) {
        assert_eq!(series[&format!("quicket_{name}_total")], f64::from(at), "{name}");
    }
    assert_eq!(series["quicket_sockets"], 1.0);
    assert_eq!(series["quicket_certificate_not_after_seconds"], 2e9);
}

#[test]
fn a_session_is_open_on_one_transport_from_open_to_close() {
    use TransportKind::{Polling, WebSocket, WebTransport};
    let metrics = at_start();
    let open = || {
        let series = read(&metrics.render());
        TransportKind::ALL
            .map(|kind| series[&format!("quicket_sessions{{transport=\"{}\"}}", kind.name())])
    };
    metrics.session_opened(Polling);
    metrics.upgraded(Polling, WebSocket, ProbeFailure::Timeout.into());
    assert_eq!(open(), [1.0, 0.0, 0.0]);
    metrics.upgraded(Polling, WebTransport, UpgradeOutcome::Completed);
    assert_eq!(open(), [0.0, 0.0, 1.0]);
    metrics.session_closed(WebTransport, CloseReason::SlowConsumer);
    assert_eq!(open(), [0.0, 0.0, 0.0]);
    let series = read(&metrics.render());
    for key in [
        "quicket_sessions_opened_total{transport=\"polling\"}",
        "quicket_sessions_closed_total{reason=\"slow_consumer\"}",
        "quicket_upgrades_total{from=\"polling\",to=\"websocket\",outcome=\"timeout\"}",
        "quicket_upgrades_total{from=\"polling\",to=\"webtransport\",outcome=\"completed\"}",
    ] {
        assert_eq!(series[key], 1.0, "{key}");
    }
}

#[test]
fn two_servers_in_one_process_count_apart() {
    let (one, other) = (at_start(), at_start());
    one.sockets.inc();
    assert_eq!(read(&other.render())["quicket_sockets"], 0.0);
}
