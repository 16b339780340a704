//! Events that can be checked: each carries who sent it, its number and when, so that one that is lost,
//! doubled, reordered or astray is found, and that fails the run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::fleet::{Event, Fleet, Handler, Message, Out};

/// `#`, lane, number and time in µs, as hexadecimal digits: text that every server passes on as it is.
const MARK_BYTES: usize = 1 + 4 + 8 + 12;
/// The lane of events that only show that the way is open.
const WARM_UP: usize = 0xffff;

/// A sender of numbered events and where they go.
struct Lane {
    sender: usize,
    /// Whose clients get them, the sender excepted.
    group: usize,
    /// Where receivers keep the number that they expect next.
    slot: usize,
    sent: u32,
    /// Events under way that it may have, in a closed loop.
    window: u32,
}

/// What a client may get.
#[derive(Default)]
struct Receiver {
    group: Option<usize>,
    /// For each slot of the group the number that comes next.
    next: Vec<u32>,
    warm: bool,
}

#[derive(Default)]
struct Group {
    members: Vec<usize>,
    lanes: Vec<usize>,
}

/// What an event looks like.
#[derive(Clone)]
pub(crate) struct Shape {
    /// `drawing` goes to everyone else, `say` to the sender's room.
    pub(crate) event: &'static str,
    /// About so many bytes; at least what a stroke needs.
    pub(crate) bytes: usize,
    /// Is the payload an attachment?
    pub(crate) binary: bool,
}

impl Shape {
    /// A stroke on the whiteboard, 150 bytes.
    pub(crate) const DRAWING: Self = Self { event: "drawing", bytes: 150, binary: false };
    /// The same for a room.
    pub(crate) const SAY: Self = Self { event: "say", bytes: 150, binary: false };

    fn messages(&self, mark: &str) -> Vec<Message> {
        let event = self.event;
        if self.binary {
            let mut bytes = mark.as_bytes().to_vec();
            bytes.resize(self.bytes.max(MARK_BYTES), 0xaa);
            let text = format!(r#"51-["{event}",{{"_placeholder":true,"num":0}}]"#);
            return vec![Message::Text(text.into()), Message::Binary(bytes)];
        }
        let line = r#""x0":0.48213,"y0":0.29917,"x1":0.48334,"y1":0.30102"#;
        let frame = format!(r#"2["{event}",{{{line},"color":""}}]"#).len();
        let fill = "x".repeat(self.bytes.saturating_sub(frame + MARK_BYTES));
        vec![Message::Text(format!(r#"2["{event}",{{{line},"color":"{mark}{fill}"}}]"#).into())]
    }

    fn fits(&self, received: usize) -> bool {
        // a server may write numbers and names in its own way, but must not cut
        received + 32 >= self.bytes
    }
}

/// All events of a run, and what has become of them.
pub(crate) struct Traffic {
    epoch: Instant,
    shape: Shape,
    lanes: Vec<Lane>,
    groups: Vec<Group>,
    receivers: Vec<Receiver>,
    /// Deliveries that are to come.
    outstanding: u64,
    pub(crate) delivered: u64,
    pub(crate) events: u64,
    /// Acknowledgements of `join` and `aim`.
    acks: usize,
    latencies: Vec<u32>,
    /// One client in so many takes the time.
    timed: usize,
    fault: Option<String>,
    /// In a closed loop no new event starts after this.
    until: Option<Instant>,
}

impl Traffic {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            epoch: Instant::now(),
            shape,
            lanes: Vec::new(),
            groups: Vec::new(),
            receivers: Vec::new(),
            outstanding: 0,
            delivered: 0,
            events: 0,
            acks: 0,
            latencies: Vec::new(),
            timed: 1,
            fault: None,
            until: None,
        }
    }

    /// Latency is that of clients 0, `count`, and so on.
    pub(crate) fn timed_at_every(mut self, count: usize) -> Self {
        self.timed = count;
        self
    }

    /// Clients who get the events of the group's lanes.
    pub(crate) fn group(&mut self, members: &[usize]) -> usize {
        let group = self.groups.len();
        for &who in members {
            self.receiver(who).group = Some(group);
        }
        self.groups.push(Group { members: members.to_vec(), lanes: Vec::new() });
        group
    }

    /// Makes `sender` send to a group.
    pub(crate) fn lane(&mut self, sender: usize, group: usize) -> usize {
        let lane = self.lanes.len();
        assert!(lane < WARM_UP, "marks have room for fewer lanes");
        let slot = self.groups[group].lanes.len();
        self.groups[group].lanes.push(lane);
        for who in self.groups[group].members.clone() {
            self.receiver(who).next.push(0);
        }
        self.lanes.push(Lane { sender, group, slot, sent: 0, window: 0 });
        lane
    }

    fn receiver(&mut self, who: usize) -> &mut Receiver {
        if self.receivers.len() <= who {
            self.receivers.resize_with(who + 1, Receiver::default);
        }
        &mut self.receivers[who]
    }

    /// Forgets figures, not numbers: what follows is measured.
    pub(crate) fn start_measuring(&mut self) {
        self.latencies.clear();
        self.delivered = 0;
        self.events = 0;
    }

    fn mark(&self, lane: usize, number: u32) -> String {
        let now = self.epoch.elapsed().as_micros() as u64;
        format!("#{lane:04x}{number:08x}{now:012x}")
    }

    /// The next event of a lane.
    fn next_event(&mut self, lane: usize, out: &mut Out) {
        let mark = self.mark(lane, self.lanes[lane].sent);
        let Lane { sender, group, sent, .. } = &mut self.lanes[lane];
        *sent += 1;
        let sender = *sender;
        let members = &self.groups[*group].members;
        self.outstanding += (members.len() - usize::from(members.contains(&sender))) as u64;
        self.events += 1;
        out.extend(self.shape.messages(&mark).into_iter().map(|message| (sender, message)));
    }

    fn delivery(&mut self, who: usize, payload: &[u8], out: &mut Out) {
        let Some((lane, number, sent_at)) = read_mark(payload) else {
            return self.fail(format!("an event without a mark: {}", lossy(payload)));
        };
        let now = self.epoch.elapsed().as_micros() as u64;
        let receiver = &mut self.receivers[who];
        if lane == WARM_UP {
            receiver.warm = true;
            return;
        }
        let Some(lane) = self.lanes.get(lane) else {
            return self.fail("an event of nobody".to_owned());
        };
        if receiver.group != Some(lane.group) || who == lane.sender {
            return self.fail(format!("client {who} got an event that was not for it"));
        }
        let expected = receiver.next[lane.slot];
        if number != expected {
            let (verb, sender) = (if number < expected { "again" } else { "early" }, lane.sender);
            return self.fail(format!(
                "client {who} got event {number} of client {sender} {verb}, {expected} was next"
            ));
        }
        if !self.shape.fits(payload.len()) {
            return self.fail(format!("client {who} got {} bytes only", payload.len()));
        }
        receiver.next[lane.slot] += 1;
        self.outstanding -= 1;
        self.delivered += 1;
        if who.is_multiple_of(self.timed) {
            self.latencies.push(now.saturating_sub(sent_at) as u32);
        }
        if lane.window > 0 {
            let (group, slot, sent) = (lane.group, lane.slot, lane.sent);
            let (window, at) = (lane.window, self.groups[group].lanes[slot]);
            self.refill(at, group, slot, sent, window, out);
        }
    }

    /// Closed loop: a lane goes on when its slowest receiver has.
    fn refill(
        &mut self,
        lane: usize,
        group: usize,
        slot: usize,
        sent: u32,
        window: u32,
        out: &mut Out,
    ) {
        let members = self.groups[group].members.iter();
        let slowest = members.map(|&who| self.receivers[who].next[slot]).min().unwrap_or(0);
        let open = self.until.is_some_and(|until| Instant::now() < until);
        // half a window at a time: one event for each delivery would be lock-step
        if open && sent - slowest <= window / 2 {
            for _ in sent - slowest..window {
                self.next_event(lane, out);
            }
        }
    }

    fn fail(&mut self, why: String) {
        self.fault.get_or_insert(why);
    }

    fn check(&self) -> Result<()> {
        match &self.fault {
            Some(fault) => bail!("{fault}"),
            None => Ok(()),
        }
    }

    /// The given share of deliveries was faster than so many milliseconds.
    pub(crate) fn latency(&mut self, share: f64) -> f64 {
        percentile(&mut self.latencies, share)
    }
}

impl Handler for Traffic {
    fn handle(&mut self, who: usize, event: Event<'_>, out: &mut Out) {
        match event {
            Event::Ready => drop(self.receiver(who)),
            Event::Text([b'3', ..]) => self.acks += 1,
            // its payload follows as an attachment
            Event::Text([b'5', ..]) => {}
            Event::Text(packet) | Event::Binary(packet) => self.delivery(who, packet, out),
            Event::Closed(why) => self.fail(format!("client {who} was lost: {why}")),
        }
    }
}

/// Lane, number and time of a mark.
fn read_mark(payload: &[u8]) -> Option<(usize, u32, u64)> {
    let at = memchr::memchr(b'#', payload)? + 1;
    let digits = std::str::from_utf8(payload.get(at..at + MARK_BYTES - 1)?).ok()?;
    let hex = |range: std::ops::Range<usize>| u64::from_str_radix(&digits[range], 16).ok();
    Some((hex(0..4)? as usize, hex(4..12)? as u32, hex(12..24)?))
}

fn lossy(payload: &[u8]) -> String {
    String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned()
}

/// The value below which `share` of the values are, from µs to ms.
pub(crate) fn percentile(values: &mut [u32], share: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let at = ((values.len() as f64 * share) as usize).min(values.len() - 1);
    f64::from(*values.select_nth_unstable(at).1) / 1000.0
}

/// Has clients join (or aim at) rooms, 1,000 at a time, and waits for the answers.
pub(crate) fn enter(
    fleet: &mut dyn Fleet,
    traffic: &mut Traffic,
    verb: &str,
    rooms: &[(usize, String)],
) -> Result<()> {
    for some in rooms.chunks(1000) {
        let wanted = traffic.acks + some.len();
        for (who, room) in some {
            fleet.send(*who, &Message::Text(format!(r#"20["{verb}","{room}"]"#).into()))?;
        }
        let deadline = Instant::now() + PATIENCE;
        while traffic.acks < wanted {
            turn(fleet, traffic, Instant::now() + Duration::from_millis(50))?;
            if Instant::now() > deadline {
                bail!("{} answers to `{verb}` are missing", wanted - traffic.acks);
            }
        }
    }
    Ok(())
}

/// How long anything may take before the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn turn(fleet: &mut dyn Fleet, traffic: &mut Traffic, until: Instant) -> Result<()> {
    fleet.turn(until, traffic)?;
    traffic.check()
}

fn send(fleet: &mut dyn Fleet, out: Out) -> Result<()> {
    out.into_iter().try_for_each(|(who, message)| fleet.send(who, &message))
}

/// Sends until every client in a group has got something: nodes may still be finding each other.
pub(crate) fn warm_up(fleet: &mut dyn Fleet, traffic: &mut Traffic) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is_warm = |who: &usize| traffic.receivers[*who].warm;
        let senders = || traffic.lanes.iter().map(|lane| lane.sender).collect::<Vec<_>>();
        // who sends alone hears nothing
        let alone = |who: &usize| senders().iter().all(|sender| sender == who);
        let mut members = traffic.groups.iter().flat_map(|group| &group.members);
        if members.all(|who| is_warm(who) || alone(who)) {
            break;
        }
        if Instant::now() > deadline {
            bail!("not all clients hear the others");
        }
        for lane in 0..traffic.lanes.len() {
            let mark = traffic.mark(WARM_UP, 0);
            for message in traffic.shape.messages(&mark) {
                fleet.send(traffic.lanes[lane].sender, &message)?;
            }
        }
        idle(fleet, traffic, Duration::from_millis(200))?;
    }
    // what is under way must not come into the measurement
    idle(fleet, traffic, Duration::from_millis(500))
}

/// Does only what the peers want.
pub(crate) fn idle(fleet: &mut dyn Fleet, traffic: &mut Traffic, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        turn(fleet, traffic, until)?;
    }
    Ok(())
}

/// Open loop: `rate` events a second from the lanes in turn, for `time`, and then until all are there.
pub(crate) fn paced(
    fleet: &mut dyn Fleet,
    traffic: &mut Traffic,
    rate: f64,
    time: Duration,
) -> Result<()> {
    let start = Instant::now();
    let count = (rate * time.as_secs_f64()) as u64;
    let lanes = traffic.lanes.len();
    let mut out = Out::new();
    for number in 0..count {
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        while Instant::now() < due {
            turn(fleet, traffic, due)?;
        }
        traffic.next_event(number as usize % lanes, &mut out);
        send(fleet, std::mem::take(&mut out))?;
        if start.elapsed() > time + PATIENCE {
            bail!("the generator is {} events behind", count - number);
        }
    }
    drain(fleet, traffic)
}

/// Closed loop: every lane keeps up to `window` events under way for `time`. Gives the events a second.
pub(crate) fn saturated(
    fleet: &mut dyn Fleet,
    traffic: &mut Traffic,
    window: u32,
    time: Duration,
) -> Result<f64> {
    let start = Instant::now();
    traffic.until = Some(start + time);
    let mut out = Out::new();
    for lane in 0..traffic.lanes.len() {
        traffic.lanes[lane].window = window;
        (0..window).for_each(|_| traffic.next_event(lane, &mut out));
    }
    send(fleet, out)?;
    drain(fleet, traffic)?;
    Ok(traffic.events as f64 / start.elapsed().as_secs_f64())
}

/// Works until every event is where it belongs.
fn drain(fleet: &mut dyn Fleet, traffic: &mut Traffic) -> Result<()> {
    let (mut left, mut progress) = (traffic.outstanding, Instant::now());
    while traffic.outstanding > 0 {
        turn(fleet, traffic, Instant::now() + Duration::from_millis(50))?;
        if traffic.outstanding != left {
            (left, progress) = (traffic.outstanding, Instant::now());
        } else if progress.elapsed() > Duration::from_secs(20) {
            bail!("{left} deliveries are lost");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client 0 has sent two events to itself and client 1; what 1 gets is `deliver`'s choice.
    fn delivered(deliver: impl Fn(&[Vec<u8>]) -> Vec<(usize, Vec<u8>)>) -> Result<u64> {
        let mut traffic = Traffic::new(Shape::DRAWING);
        let mut out = Out::new();
        (0..3).for_each(|who| traffic.handle(who, Event::Ready, &mut out));
        let group = traffic.group(&[0, 1]);
        let lane = traffic.lane(0, group);
        (0..2).for_each(|_| traffic.next_event(lane, &mut out));
        let sent: Vec<Vec<u8>> = std::mem::take(&mut out)
            .into_iter()
            .map(|(_, message)| match message {
                Message::Text(bytes) | Message::Binary(bytes) => bytes,
            })
            .collect();
        for (who, packet) in deliver(&sent) {
            traffic.handle(who, Event::Text(&packet), &mut out);
        }
        traffic.check()?;
        Ok(traffic.outstanding)
    }

    #[test]
    fn what_arrives_in_order_and_once_is_right() {
        let all = |sent: &[Vec<u8>]| vec![(1, sent[0].clone()), (1, sent[1].clone())];
        assert_eq!(delivered(all).expect("nothing is wrong"), 0);
    }

    #[test]
    fn a_lost_event_is_noticed_by_the_next_one_or_stays_outstanding() {
        assert!(delivered(|sent| vec![(1, sent[1].clone())]).is_err());
        assert_eq!(delivered(|sent| vec![(1, sent[0].clone())]).expect("none is wrong yet"), 1);
    }

    #[test]
    fn doubled_reordered_stray_and_cut_events_are_noticed() {
        assert!(delivered(|sent| vec![(1, sent[0].clone()); 2]).is_err());
        assert!(delivered(|sent| vec![(1, sent[1].clone()), (1, sent[0].clone())]).is_err());
        assert!(delivered(|sent| vec![(2, sent[0].clone())]).is_err(), "not in the group");
        assert!(delivered(|sent| vec![(0, sent[0].clone())]).is_err(), "its own");
        assert!(delivered(|sent| vec![(1, sent[0][..110].to_vec())]).is_err(), "cut");
        assert!(delivered(|_| vec![(1, b"2[\"drawing\"]".to_vec())]).is_err(), "unmarked");
    }

    #[test]
    fn events_have_the_size_that_is_asked_for() {
        for bytes in [150, 65_536] {
            let shape = Shape { bytes, ..Shape::DRAWING };
            let [Message::Text(text)] = &shape.messages(&"#".repeat(MARK_BYTES))[..] else {
                panic!("one message of text");
            };
            assert_eq!(text.len(), bytes);
        }
    }
}
