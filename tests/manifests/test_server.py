"""What the manifests ask of the server, asked of the server: settings, probes, metrics, and its end."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from rendered import OVERLAYS, ROOT, Overlay, binary, containers, pod, seconds

each_overlay = pytest.mark.parametrize("overlay", [Overlay(name) for name in OVERLAYS], ids=repr)

# How long the server takes beside SHUTDOWN_GRACE: publishing what waits, the last answers, QUIC's goodbye
# (docs/operating.md).
BESIDE_GRACE = 8


@each_overlay
def test_every_variable_is_a_setting(overlay):
    rows = re.findall(r"^\| `--[a-z-]+` \| `([A-Z_]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.M)
    assert len(rows) > 40
    unknown = set(overlay.settings()) - set(rows)
    assert not unknown, unknown


@each_overlay
def test_the_server_takes_the_configuration(overlay):
    done = check_config(overlay.settings())
    assert done.returncode == 0, done.stderr


def test_the_server_takes_what_is_only_suggested():
    text = (ROOT / "manifests/overlays/production/kustomization.yaml").read_text()
    suggested = dict(re.findall(r"^#.*literals: \[([A-Z_]+)=([^]]+)\]", text, re.M))
    assert "SHED" in suggested
    done = check_config(Overlay("production").settings() | suggested)
    assert done.returncode == 0, done.stderr


def test_a_bad_configuration_is_noticed():
    assert check_config({"WEBTRANSPORT_SERVER_ID": "pod"}).returncode == 64


def check_config(settings):
    return subprocess.run(
        [binary(), "--check-config"], env=settings, capture_output=True, text=True, check=False
    )


@each_overlay
def test_the_pod_has_the_time_that_the_server_takes_to_stop(overlay):
    spec = pod(overlay.named("Deployment", "quicket"))
    sleep = containers(overlay.named("Deployment", "quicket"))[0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = sleep + seconds(overlay.settings()["SHUTDOWN_GRACE"]) + BESIDE_GRACE
    assert needed <= spec["terminationGracePeriodSeconds"], "the kubelet would kill it while it closes sessions"
    assert sleep >= 5, "balancers have to hear of it first"
    drain, grace = (seconds(overlay.settings()[name]) for name in ("DRAIN", "SHUTDOWN_GRACE"))
    assert drain + 15 <= grace, "the last ones closed want time, too: a poll, an application's handler"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(settings, command=None):
    """The server as the manifest starts it, on ports of our own and without Redis."""
    bound = {"PORT": str(free_port()), "ADMIN_PORT": str(free_port())}
    # the certificate is in a Secret; QUIC makes one of its own without
    env = {k: v for k, v in settings.items() if not k.startswith(("REDIS_", "TLS_"))}
    process = subprocess.Popen(
        command or [binary()], env={"PATH": os.environ["PATH"]} | env | bound, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 30
        while get(bound["ADMIN_PORT"], "/readyz")[0] != 200:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.05)
        yield process, bound
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def test_probes_and_health_checks_ask_for_what_the_server_has():
    with running(Overlay("traefik").settings()) as (_, bound):
        for overlay in map(Overlay, OVERLAYS):
            container = containers(overlay.named("Deployment", "quicket"))[0]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container[kind]["httpGet"]
                assert probe["port"] == "admin", "the clients' port may be full"
                assert get(bound["ADMIN_PORT"], probe["path"])[0] == 200, probe
            for monitor in overlay.all("ServiceMonitor"):
                for endpoint in monitor["spec"]["endpoints"]:
                    assert endpoint["port"] == "admin"
                    assert get(bound["ADMIN_PORT"], endpoint["path"])[0] == 200
                service = [
                    s for s in overlay.all("Service")
                    if monitor["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
                ]
                assert len(service) == 1 and any(p["name"] == "admin" for p in service[0]["spec"]["ports"])
            # balancers outside the cluster ask on the clients' port
            for path in outside_checks(overlay):
                assert get(bound["PORT"], path)[0] == 200, path
        assert get(bound["PORT"], "/readyz")[0] == 404, "the admin port is another one"


def outside_checks(overlay):
    for policy in overlay.all("HealthCheckPolicy"):
        if policy["spec"]["targetRef"]["name"] == "quicket":
            yield policy["spec"]["default"]["config"]["httpHealthCheck"]["requestPath"]
    for service in overlay.all("Service"):
        if service["metadata"]["name"] != "quicket-frontend":
            for key, value in service["metadata"].get("annotations", {}).items():
                if key.endswith("healthcheck-path"):
                    yield value


def test_autoscaling_asks_for_metrics_that_are_there():
    with running(Overlay("production").settings()) as (_, bound):
        known = set(re.findall(r"^(quicket_\w+)", get(bound["ADMIN_PORT"], "/metrics")[1], re.M))
    triggers = Overlay("production").all("ScaledObject")[0]["spec"]["triggers"]
    asked = {name for each in triggers for name in re.findall(r"quicket_\w+", each["metadata"].get("query", ""))}
    assert len(asked) >= 3 and asked <= known, asked - known


def test_the_server_says_the_port_that_the_balancer_has():
    with running(Overlay("webtransport-mixed").settings()) as (_, bound):
        assert '"port":443' in get(bound["PORT"], "/webtransport.json")[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and setpriv want root")
def test_the_container_s_process_ends_in_order_as_pid_1(tmp_path):
    """The manifest's uid, no capabilities, no new privileges, a read-only root and PID 1 of its own."""
    deployment = Overlay("traefik").named("Deployment", "quicket")
    user = pod(deployment)["securityContext"]["runAsUser"]
    assert containers(deployment)[0]["securityContext"]["readOnlyRootFilesystem"]
    root = image_root(tmp_path)
    # chroot wants a capability, so setpriv, which gives all up, is inside
    script = (
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} && mount -t proc proc {root}/proc && "
        f"exec chroot {root} /setpriv --reuid={user} --regid={user} --clear-groups --no-new-privs "
        "--bounding-set=-all --inh-caps=-all --ambient-caps=-all /quicket"
    )
    command = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", script]
    with running(Overlay("traefik").settings() | {"SHUTDOWN_GRACE": "4s", "DRAIN": "2s"}, command) as (process, bound):
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        pid = int(children.split()[0])
        status = dict(
            line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert status["NSpid"].split()[-1] == "1", "it is PID 1"
        assert set(status["Uid"].split()) == {str(user)}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1"
        assert get(bound["PORT"], "/socket.io/?EIO=4&transport=polling")[0] == 200, "it serves"
        os.kill(pid, 15)
        assert process.wait(timeout=60) == 0, "SIGTERM ends it in order"


def image_root(tmp_path):
    """A root file system with the binary and what it is linked with, as the image has."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    for program in (binary(), pathlib.Path(shutil.which("setpriv"))):
        shutil.copy2(program, root / program.name)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+)", linked):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)
    return root
