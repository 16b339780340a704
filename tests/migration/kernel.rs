//! The same with the kernel's own means: each machine is a network namespace, the way between them virtual
//! Ethernet, and balancer and NAT are rules of nftables.
//!
//! ```text
//! client ── home ── balancer ─┬─ pod 1
//!           (NAT)   (DNAT)    └─ pod 2
//! ```
//!
//! Wants root and the packages nftables, iproute2 and conntrack; where that is not to be had, it says so on
//! standard error and leaves it at that.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use quicket::EngineServer;
use quicket::config::ServerId;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;
use wtransport::tls::Sha256Digest;

use crate::{Pod, Session, answers};

const PODS: [(ServerId, Ipv4Addr); 2] = [
    (ServerId([0xaa; 8]), Ipv4Addr::new(10, 77, 1, 2)),
    (ServerId([0xbb; 8]), Ipv4Addr::new(10, 77, 2, 2)),
];

/// Where pods listen; the balancer has 443.
const PORT: u16 = 3000;

/// What clients dial.
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 1);

/// The address of the NAT, as the balancer and the pods see it.
const HOME: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 2);

/// What kube-proxy does: a flow that conntrack does not know goes to the next pod.
const BY_ADDRESS: &str = "udp dport 443 dnat ip to numgen inc mod 2 map \
     { 0 : 10.77.1.2 . 3000, 1 : 10.77.2.2 . 3000 }";

/// Ahead of it: packets with a short header go where their connection id says. Behind the 8 bytes of UDP's
/// header comes QUIC's first octet, then the connection id, of which the first octet is its length.
const BY_SERVER_ID: &str = "udp dport 443 @th,64,8 & 0x80 == 0x00 dnat ip to @th,80,64 map \
     { 0xaaaaaaaaaaaaaaaa : 10.77.1.2 . 3000, 0xbbbbbbbbbbbbbbbb : 10.77.2.2 . 3000 }";

/// Runs a command that has to succeed.
fn run(words: &[&str], input: &str) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", words.join(" "));
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| said(&error))?;
    // a command that ends without reading says why by itself
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| said(&error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(said(&String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A machine.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("quicket-{}-{count}-{role}", std::process::id()));
        run(&["ip", "netns", "add", &namespace.0], "")?;
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// Runs a command inside.
    fn run(&self, command: &str) -> Result<(), String> {
        self.run_with(command, "")
    }

    fn run_with(&self, command: &str, input: &str) -> Result<(), String> {
        let words: Vec<_> =
            ["ip", "netns", "exec", &self.0].into_iter().chain(command.split(' ')).collect();
        run(&words, input)
    }

    /// A cable to another machine. Addresses are of a network of 24 bits.
    fn connect(&self, own: Ipv4Addr, other: &Self, others: Ipv4Addr) -> Result<(), String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let [near, far] = [(); 2].map(|()| format!("v{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let peer = &other.0;
        self.run(&format!("ip link add {near} type veth peer name {far} netns {peer}"))?;
        for (namespace, link, address) in [(self, &near, own), (other, &far, others)] {
            namespace.run(&format!("ip address add {address}/24 dev {link}"))?;
            namespace.run(&format!("ip link set {link} up"))?;
        }
        Ok(())
    }

    /// Runs a future inside, on a thread of its own: what it opens is there.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.0);
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "delete", &self.0], "");
    }
}

/// A table of rules for addresses, in place of the one before.
fn table(hook: &str, rules: &[&str]) -> String {
    let rules = rules.join("\n");
    format!(
        "table ip test\ndelete table ip test\ntable ip test {{\nchain nat {{\n\
         type nat hook {hook};\n{rules}\n}}\n}}\n"
    )
}

/// All machines, without anything that runs on them.
struct Lab {
    client: Namespace,
    home: Namespace,
    balancer: Namespace,
    pods: [Namespace; 2],
}

impl Lab {
    fn new(rules: &[&str]) -> Result<Self, String> {
        let [client, home, balancer] = ["client", "home", "balancer"].map(Namespace::new);
        let [one, two] = ["pod1", "pod2"].map(Namespace::new);
        let lab = Self { client: client?, home: home?, balancer: balancer?, pods: [one?, two?] };
        let inside = [[10, 77, 4, 1], [10, 77, 4, 2]].map(Ipv4Addr::from);
        lab.home.connect(inside[0], &lab.client, inside[1])?;
        lab.client.run(&format!("ip route add default via {}", inside[0]))?;
        lab.balancer.connect(BALANCER, &lab.home, HOME)?;
        for (pod, (_, address)) in lab.pods.iter().zip(PODS) {
            let [a, b, c, _] = address.octets();
            let gateway = Ipv4Addr::new(a, b, c, 1);
            lab.balancer.connect(gateway, pod, address)?;
            pod.run(&format!("ip route add default via {gateway}"))?;
        }
        for router in [&lab.home, &lab.balancer] {
            router.run_with("tee /proc/sys/net/ipv4/ip_forward", "1")?;
        }
        lab.balancer.run_with("nft -f -", &table("prerouting priority dstnat", rules))?;
        Ok(lab)
    }

    /// Can there be one here? What this asks for is all that is not in every kernel and container.
    fn is_possible() -> Result<(), String> {
        let probe = Namespace::new("probe")?;
        probe.run("ip link add probe type veth peer name eborp")?;
        probe.run_with("nft -f -", &table("prerouting priority dstnat", &[]))?;
        probe.run("conntrack -F")
    }

    /// Tells the NAT the port that it has for the client from now on, and makes it forget what it had.
    fn rebind(&self, port: u16) -> Result<(), String> {
        let snat = format!("udp dport 443 snat ip to {HOME}:{port}");
        let snat = table("postrouting priority srcnat", &[&snat]);
        self.home.run_with("nft -f -", &snat)?;
        self.home.run("conntrack -F")
    }

    /// Starts a pod; the thread ends with its server.
    fn start_pod(&self, at: usize) -> (oneshot::Receiver<Started>, JoinHandle<()>) {
        let (started, starting) = oneshot::channel();
        let thread = self.pods[at].spawn(async move || {
            let (id, _) = PODS[at];
            let pod = Pod::listen(id, Ipv4Addr::UNSPECIFIED, PORT).await;
            let local = Pod { address: (Ipv4Addr::LOCALHOST, PORT).into(), ..pod };
            let hash = local.certificate_hash().await;
            let (stop, stopped) = oneshot::channel();
            let _ = started.send(Started { server: local.server, hash, stop });
            let _ = stopped.await;
        });
        (starting, thread)
    }
}

/// A pod, for those outside.
struct Started {
    server: EngineServer,
    hash: Sha256Digest,
    stop: oneshot::Sender<()>,
}

/// What a client gets that asks something before and after its address changes, twice; `None` where there is
/// no such lab.
fn across_rebinds(rules: &[&str]) -> Option<[Option<String>; 3]> {
    if let Err(error) = Lab::is_possible() {
        // not through the macro, whose lines are kept back while a test passes
        let said = format!("\n!!! SKIPPED: migration in network namespaces: {error}\n");
        let _ = std::io::stderr().write_all(said.as_bytes());
        return None;
    }
    let lab = Arc::new(Lab::new(rules).unwrap());
    let first_port = 40_001;
    lab.rebind(first_port).unwrap();
    let (pods, threads): (Vec<_>, Vec<_>) = [0, 1].map(|at| lab.start_pod(at)).into_iter().unzip();
    let pods: Vec<_> = pods.into_iter().map(|pod| pod.blocking_recv().unwrap()).collect();
    let hashes = pods.iter().map(|pod| pod.hash.clone()).collect();
    let (network, port) = (lab.clone(), AtomicU16::new(first_port));
    let found = lab.client.spawn(async move || {
        let session = Session::open(SocketAddr::from((BALANCER, 443)), hashes).await;
        let rebind = async || {
            network.rebind(port.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
        };
        session.across_rebinds(rebind).await
    });
    let found = found.join().unwrap();
    for pod in pods {
        pod.server.shutdown();
        let _ = pod.stop.send(());
    }
    for thread in threads {
        thread.join().unwrap();
    }
    Some(found)
}

#[test]
fn in_the_kernel_a_balancer_that_reads_server_ids_keeps_a_client_whose_port_changes() {
    if let Some(found) = across_rebinds(&[BY_SERVER_ID, BY_ADDRESS]) {
        assert_eq!(found, answers(["4before", "4after", "4again"]));
    }
}

#[test]
fn in_the_kernel_plain_dnat_loses_it() {
    if let Some(found) = across_rebinds(&[BY_ADDRESS]) {
        assert_eq!(found, [Some("4before".to_owned()), None, None]);
    }
}
