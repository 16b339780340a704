//! Echo with acknowledgements: every client asks again when it has its answer.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::fanout::AT_ONCE;
use super::{Sample, Workload, micros_each};
use crate::fleet::{Event, Fleet, Handler, Message, Out, Transport, open_all};
use crate::lab::{Lab, Peer};
use crate::report::Metric;
use crate::traffic::percentile;

pub(crate) fn workloads(_: &Lab) -> Vec<Workload> {
    use Transport::{Polling, Websocket, Webtransport};
    let plans = [
        ("ws-echo", Websocket, 100),
        ("ws-echo-1", Websocket, 1),
        ("polling-echo", Polling, 100),
        ("wt-echo", Webtransport, 100),
    ];
    let workload = |(id, transport, clients): (_, Transport, usize)| {
        Workload {
        id,
        title: format!("{} echo with acknowledgements, {clients} at a time", transport.name()),
        about: "Each client sends 150 bytes and sends again when it has the answer. Answers are compared \
                with what was sent."
            .to_owned(),
        metrics: vec![
            Metric::new("cpu", "CPU for each round trip", "µs"),
            Metric::new("rate", "round trips", "1/s").higher(),
            Metric::new("p50", "latency, median", "ms"),
            Metric::new("p99", "p99", "ms"),
        ],
        peers: [Peer::Quicket, Peer::Socketioxide, Peer::Node]
            .into_iter()
            .filter(|peer| peer.speaks(transport))
            .collect(),
        run: Box::new(move |lab, peer| run(lab, peer, transport, clients)),
    }
    };
    plans.into_iter().map(workload).collect()
}

/// What each client waits for.
#[derive(Default)]
struct Echoes {
    /// For each client the number of its question and when it was asked.
    asked: Vec<(u32, Option<Instant>)>,
    until: Option<Instant>,
    latencies: Vec<u32>,
    answered: u64,
    waiting: usize,
    fault: Option<String>,
}

impl Echoes {
    fn text(who: usize, number: u32) -> String {
        format!("client {who} asks {number} {}", "x".repeat(100))
    }

    fn ask(&mut self, who: usize, out: &mut Out) {
        let (number, asked) = &mut self.asked[who];
        *number += 1;
        *asked = Some(Instant::now());
        self.waiting += 1;
        let question = format!(r#"2{number}["echo","{}"]"#, Self::text(who, *number));
        out.push((who, Message::Text(question.into())));
    }
}

impl Handler for Echoes {
    fn handle(&mut self, who: usize, event: Event<'_>, out: &mut Out) {
        match event {
            Event::Ready => self.asked.resize(self.asked.len().max(who + 1), (0, None)),
            Event::Text(answer) => {
                let (number, asked) = &mut self.asked[who];
                let expected = format!(r#"3{number}["{}"]"#, Self::text(who, *number));
                let Some(asked) = asked.take().filter(|_| answer == expected.as_bytes()) else {
                    let answer = String::from_utf8_lossy(answer);
                    self.fault = Some(format!("expected {expected}, got {answer}"));
                    return;
                };
                self.latencies.push(asked.elapsed().as_micros() as u32);
                self.answered += 1;
                self.waiting -= 1;
                if self.until.is_some_and(|until| Instant::now() < until) {
                    self.ask(who, out);
                }
            }
            Event::Binary(_) => self.fault = Some("nobody asked for binary".to_owned()),
            Event::Closed(why) => self.fault = Some(format!("client {who} was lost: {why}")),
        }
    }
}

/// Asks and asks again for `time`, and until the last answer is there.
fn ask_all(fleet: &mut dyn Fleet, echoes: &mut Echoes, time: Duration) -> Result<()> {
    (echoes.latencies, echoes.answered) = (Vec::new(), 0);
    let until = Instant::now() + time;
    echoes.until = Some(until);
    let mut out = Out::new();
    (0..echoes.asked.len()).for_each(|who| echoes.ask(who, &mut out));
    for (who, message) in out {
        fleet.send(who, &message)?;
    }
    while echoes.waiting > 0 {
        fleet.turn(Instant::now() + Duration::from_millis(50), echoes)?;
        if let Some(fault) = &echoes.fault {
            bail!("{fault}");
        }
        if Instant::now() > until + Duration::from_secs(20) {
            bail!("{} answers are missing", echoes.waiting);
        }
    }
    Ok(())
}

fn run(lab: &Lab, peer: Peer, transport: Transport, clients: usize) -> Result<(Sample, u64)> {
    let server = lab.start(peer, None)?;
    let mut fleet = transport.fleet()?;
    let mut echoes = Echoes::default();
    open_all(&mut *fleet, &[server.address], clients, AT_ONCE, &mut echoes)?;
    ask_all(&mut *fleet, &mut echoes, Duration::from_secs(1))?;
    let (before, begun) = (server.usage()?, Instant::now());
    ask_all(&mut *fleet, &mut echoes, lab.mode.seconds(2, 5))?;
    let took = begun.elapsed();
    let cpu = server.usage()?.cpu_since(&before);
    let sample = Sample::from([
        ("cpu".into(), micros_each(cpu, echoes.answered)),
        ("rate".into(), echoes.answered as f64 / took.as_secs_f64()),
        ("p50".into(), percentile(&mut echoes.latencies, 0.5)),
        ("p99".into(), percentile(&mut echoes.latencies, 0.99)),
    ]);
    Ok((sample, echoes.answered))
}
