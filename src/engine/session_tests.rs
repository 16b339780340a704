//! Every state of a session against every input, in virtual time.

use super::*;
use crate::engine::NodeTag;
use proptest::prelude::*;

fn times() -> Arc<SessionTimes> {
    Arc::new(SessionTimes {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        upgrade_timeout: Duration::from_millis(1000),
        close_timeout: Duration::from_millis(3000),
    })
}

struct Bench {
    session: Session,
    start: Instant,
}

impl Bench {
    fn new(kind: TransportKind) -> Self {
        let start = Instant::now();
        let sid = Sid::new([1; 16], NodeTag::new([2; 4]));
        Self { session: Session::open(start, sid, kind, true, times()), start }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Lets time pass, timer by timer, up to `millis`.
    fn pass(&mut self, millis: u64) {
        while let Some(next) = self.session.poll_timeout().filter(|at| *at <= self.at(millis)) {
            self.session.handle_timeout(next);
        }
    }

    fn packet(&mut self, millis: u64, slot: Slot, packet: Packet) -> Result<(), PeerMisbehaved> {
        self.session.handle_packet(self.at(millis), slot, packet)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn transmits(&mut self) -> Vec<(Slot, Packet)> {
        let mut all = Vec::new();
        for slot in [Slot::Current, Slot::Probe] {
            while let Some(packet) = self.session.poll_transmit(slot) {
                all.push((slot, packet));
            }
        }
        all
    }

    fn upgrading(millis: u64) -> Self {
        let mut bench = Self::new(TransportKind::Polling);
        let at = bench.at(millis);
        bench.session.handle_probe_attached(at, TransportKind::WebSocket).unwrap();
        bench
    }
}

fn ping() -> (Slot, Packet) {
    (Slot::Current, Packet::Ping("".into()))
}

#[test]
fn pings_go_on_as_long_as_pongs_come() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    for round in 0..5 {
        let due = 300 + round * 310;
        bench.pass(due);
        assert_eq!(bench.transmits(), [ping()], "round {round}");
        bench.packet(due + 10, Slot::Current, Packet::Pong("".into())).unwrap();
    }
    assert_eq!(bench.events(), []);
}

#[test]
fn a_silent_peer_is_closed_after_interval_and_timeout() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    bench.pass(499);
    assert_eq!(bench.events(), []);
    bench.pass(500);
    assert_eq!(bench.events(), [Event::Closed(CloseReason::PingTimeout)]);
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn a_timer_that_fires_a_little_late_does_not_lengthen_the_heartbeat_but_overload_does() {
    for (late, over) in [(10, 500), (50, 500), (51, 551), (400, 900)] {
        let mut bench = Bench::new(TransportKind::WebSocket);
        bench.session.handle_timeout(bench.at(300 + late));
        assert_eq!(bench.session.poll_timeout(), Some(bench.at(over)), "{late} ms late");
    }
}

#[test]
fn another_packet_buys_time_once_per_ping() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    bench.pass(300);
    for millis in [400, 450, 590] {
        bench.packet(millis, Slot::Current, Packet::Message("x".into())).unwrap();
        bench.events();
    }
    bench.pass(599);
    assert_eq!(bench.events(), []);
    bench.pass(600); // 400 + 200: the second and third packet bought nothing
    assert_eq!(bench.events(), [Event::Closed(CloseReason::PingTimeout)]);
}

#[test]
fn a_peer_that_we_do_not_read_from_is_not_blamed_for_its_missing_pong() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    bench.pass(300);
    bench.session.handle_deaf(bench.at(310), true);
    bench.pass(800); // the pong would have been due at 500
    assert_eq!(bench.events(), []);
    bench.session.handle_deaf(bench.at(800), false);
    bench.pass(999);
    assert_eq!(bench.events(), []);
    bench.pass(1_000);
    assert_eq!(bench.events(), [Event::Closed(CloseReason::PingTimeout)]);
}

#[test]
fn the_pong_of_a_peer_that_is_read_slowly_is_waited_for_until_it_is_not() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    bench.pass(300);
    for millis in [450, 600, 750] {
        bench.pass(millis);
        bench.session.handle_slowed(bench.at(millis));
    }
    bench.pass(949);
    assert_eq!(bench.events(), []);
    bench.pass(950);
    assert_eq!(bench.events(), [Event::Closed(CloseReason::PingTimeout)]);
    bench.session.handle_slowed(bench.at(960));
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn not_reading_for_a_whole_heartbeat_ends_the_session() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    bench.session.handle_deaf(bench.at(10), true);
    bench.pass(509);
    assert_eq!(bench.events(), []);
    bench.pass(510);
    assert_eq!(bench.events(), [Event::Closed(CloseReason::HandlersStuck)]);
}

#[test]
fn a_ping_that_falls_due_while_deaf_starts_its_deadline_when_reading_goes_on() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    bench.session.handle_deaf(bench.at(10), true);
    bench.pass(450);
    assert_eq!(bench.transmits(), [ping()]);
    bench.session.handle_deaf(bench.at(450), false);
    bench.pass(649);
    assert_eq!(bench.events(), []);
    bench.pass(650);
    assert_eq!(bench.events(), [Event::Closed(CloseReason::PingTimeout)]);
}

#[test]
fn a_ping_from_the_client_is_the_wrong_direction() {
    let mut bench = Bench::new(TransportKind::WebSocket);
    let result = bench.packet(1, Slot::Current, Packet::Ping("".into()));
    assert_eq!(result, Err(PeerMisbehaved::HeartbeatDirection));
    assert_eq!(bench.events(), [Event::Closed(CloseReason::TransportError)]);
}

#[test]
fn what_an_open_session_does_with_each_packet() {
    for (packet, expected) in [
        (Packet::Open("".into()), vec![]),
        (Packet::Close, vec![Event::Closed(CloseReason::TransportClose)]),
        (Packet::Pong("".into()), vec![]),
        (Packet::Message("a".into()), vec![Event::Message("a".into())]),
        (Packet::Upgrade, vec![]),
        (Packet::Noop, vec![]),
    ] {
        let mut bench = Bench::new(TransportKind::WebSocket);
        bench.packet(1, Slot::Current, packet.clone()).unwrap();
        assert_eq!(bench.events(), expected, "{packet:?}");
    }
}

#[test]
fn an_upgrade_probes_ends_polls_and_switches() {
    let mut bench = Bench::upgrading(10);
    assert!(!bench.session.ends_idle_polls());
    bench.packet(20, Slot::Probe, Packet::Ping("probe".into())).unwrap();
    assert_eq!(bench.transmits(), [(Slot::Probe, Packet::Pong("probe".into()))]);
    assert!(bench.session.ends_idle_polls());
    // messages still come over polling
    bench.packet(25, Slot::Current, Packet::Message("late".into())).unwrap();
    bench.packet(30, Slot::Probe, Packet::Upgrade).unwrap();
    assert_eq!(
        bench.events(),
        [
            Event::Message("late".into()),
            Event::Switched { from: TransportKind::Polling, to: TransportKind::WebSocket },
        ]
    );
    assert_eq!(bench.session.kind(), TransportKind::WebSocket);
    assert!(!bench.session.ends_idle_polls());
    bench.pass(1_010); // no upgrade timer is left behind, but the heartbeat is alive
    assert_eq!(bench.events(), [Event::Closed(CloseReason::PingTimeout)]);
}

#[test]
fn an_upgrade_that_is_never_finished_leaves_the_session_alive() {
    let mut bench = Bench::upgrading(0);
    bench.packet(1, Slot::Probe, Packet::Ping("probe".into())).unwrap();
    for due in [300, 610, 920] {
        bench.pass(due);
        bench.packet(due + 10, Slot::Current, Packet::Pong("".into())).unwrap();
    }
    bench.transmits();
    bench.pass(999);
    assert_eq!(bench.events(), []);
    bench.pass(1_000);
    assert_eq!(bench.events(), [Event::ProbeDropped(ProbeFailure::Timeout)]);
    assert!(bench.session.is_open());
    assert!(!bench.session.ends_idle_polls());
    let again = bench.session.handle_probe_attached(bench.at(1_001), TransportKind::WebTransport);
    assert_eq!(again, Ok(()), "and another upgrade may be tried");
}

#[test]
fn what_does_not_belong_on_a_probe_drops_the_probe_only() {
    for packet in [
        Packet::Open("".into()),
        Packet::Close,
        Packet::Ping("".into()),
        Packet::Pong("probe".into()),
        Packet::Message("x".into()),
        Packet::Noop,
        Packet::Upgrade, // without a probe before it
    ] {
        let mut bench = Bench::upgrading(0);
        let result = bench.packet(1, Slot::Probe, packet.clone());
        assert_eq!(result, Err(PeerMisbehaved::UpgradeOutOfOrder), "{packet:?}");
        assert_eq!(bench.events(), [Event::ProbeDropped(ProbeFailure::Misbehaved)]);
        assert!(bench.session.is_open());
    }
}

#[test]
fn a_second_probe_packet_drops_the_probe() {
    let mut bench = Bench::upgrading(0);
    bench.packet(1, Slot::Probe, Packet::Ping("probe".into())).unwrap();
    let second = bench.packet(2, Slot::Probe, Packet::Ping("probe".into()));
    assert_eq!(second, Err(PeerMisbehaved::UpgradeOutOfOrder));
    assert_eq!(bench.events(), [Event::ProbeDropped(ProbeFailure::Misbehaved)]);
}

#[test]
fn only_one_upgrade_from_polling() {
    let mut bench = Bench::upgrading(0);
    let second = bench.session.handle_probe_attached(bench.at(1), TransportKind::WebTransport);
    assert_eq!(second, Err(UpgradeRefused::Upgrading));
    bench.packet(2, Slot::Probe, Packet::Ping("probe".into())).unwrap();
    bench.packet(3, Slot::Probe, Packet::Upgrade).unwrap();
    let third = bench.session.handle_probe_attached(bench.at(4), TransportKind::WebTransport);
    assert_eq!(third, Err(UpgradeRefused::NotUpgradable));
    let mut closing = Bench::new(TransportKind::Polling);
    closing.session.close(closing.start, CloseReason::ForcedClose);
    let late = closing.session.handle_probe_attached(closing.at(1), TransportKind::WebSocket);
    assert_eq!(late, Err(UpgradeRefused::Closing));
}

#[test]
fn losing_the_probe_or_the_session() {
    let mut bench = Bench::upgrading(0);
    bench.session.handle_link_lost(Slot::Probe, CloseReason::TransportError);
    assert_eq!(bench.events(), [Event::ProbeDropped(ProbeFailure::Lost)]);
    let mut bench = Bench::upgrading(0);
    bench.session.handle_link_lost(Slot::Current, CloseReason::TransportError);
    assert_eq!(
        bench.events(),
        [
            Event::ProbeDropped(ProbeFailure::SessionClosed),
            Event::Closed(CloseReason::TransportError),
        ]
    );
}

#[test]
fn an_orderly_close_waits_to_be_finished_but_not_for_ever() {
    let mut bench = Bench::new(TransportKind::Polling);
    bench.session.close(bench.at(5), CloseReason::ServerShuttingDown);
    assert_eq!(bench.events(), [Event::Closing]);
    bench.packet(6, Slot::Current, Packet::Message("ignored".into())).unwrap();
    bench.pass(3_004);
    assert_eq!(bench.events(), []);
    bench.pass(3_005);
    assert_eq!(bench.events(), [Event::Closed(CloseReason::ServerShuttingDown)]);

    let mut bench = Bench::new(TransportKind::Polling);
    bench.session.close(bench.at(5), CloseReason::ForcedClose);
    bench.session.handle_link_lost(Slot::Current, CloseReason::TransportClose);
    assert_eq!(bench.events(), [Event::Closing, Event::Closed(CloseReason::ForcedClose)]);
}

#[derive(Clone, Debug)]
enum Op {
    Packet(bool, u8),
    Attach(u8),
    Lost(bool),
    Deaf(bool),
    Slowed,
    Pass(u16),
    Close,
    Abort,
    Finished,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (any::<bool>(), 0u8..8).prop_map(|(probe, kind)| Op::Packet(probe, kind)),
        (0u8..3).prop_map(Op::Attach),
        any::<bool>().prop_map(Op::Lost),
        any::<bool>().prop_map(Op::Deaf),
        Just(Op::Slowed),
        (0u16..700).prop_map(Op::Pass),
        Just(Op::Close),
        Just(Op::Abort),
        Just(Op::Finished),
    ]
}

fn packet(kind: u8) -> Packet {
    match kind {
        0 => Packet::Open("".into()),
        1 => Packet::Close,
        2 => Packet::Ping("".into()),
        3 => Packet::Ping("probe".into()),
        4 => Packet::Pong("".into()),
        5 => Packet::Message("m".into()),
        6 => Packet::Upgrade,
        _ => Packet::Noop,
    }
}

proptest! {
    /// Whatever comes in whatever order: no panic, `Closed` at most once and last, queues stay small,
    /// a closed session has no timer, and an open one always has one.
    #[test]
    fn any_life_ends_once(ops in proptest::collection::vec(op(), 1..60)) {
        let mut bench = Bench::new(TransportKind::Polling);
        let mut now = 0u64;
        let mut closed = 0;
        for op in ops {
            let slot = |probe| if probe { Slot::Probe } else { Slot::Current };
            match op {
                Op::Packet(probe, kind) => { let _ = bench.packet(now, slot(probe), packet(kind)); }
                Op::Attach(kind) => {
                    let at = bench.at(now);
                    let kind = TransportKind::ALL[usize::from(kind)];
                    let _ = bench.session.handle_probe_attached(at, kind);
                }
                Op::Lost(probe) => {
                    bench.session.handle_link_lost(slot(probe), CloseReason::TransportClose);
                }
                Op::Deaf(deaf) => { let at = bench.at(now); bench.session.handle_deaf(at, deaf); }
                Op::Slowed => { let at = bench.at(now); bench.session.handle_slowed(at); }
                Op::Pass(millis) => { now += u64::from(millis); bench.pass(now); }
                Op::Close => {
                    let at = bench.at(now);
                    bench.session.close(at, CloseReason::ForcedClose);
                }
                Op::Abort => bench.session.abort(CloseReason::SlowConsumer),
                Op::Finished => bench.session.finished(),
            }
            prop_assert!(bench.transmits().len() <= 4);
            for event in bench.events() {
                prop_assert_eq!(closed, 0, "{:?} after Closed", event);
                if matches!(event, Event::Closed(_)) { closed += 1; }
            }
            prop_assert_eq!(closed == 1, bench.session.state == State::Closed);
            prop_assert_eq!(bench.session.poll_timeout().is_none(), closed == 1);
        }
    }
}
