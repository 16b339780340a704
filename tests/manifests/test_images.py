"""The Dockerfile and compose.yaml. What is in the images is looked at by `make image-test`."""

import filecmp
import os
import re
import shutil
import subprocess
import sys

import yaml
from rendered import OVERLAYS, ROOT, Overlay, containers, pod, seconds
from test_server import BESIDE_GRACE, check_config

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=sys.prefix + "/bin")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def stages():
    """{stage: its instructions}"""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_final_stages_run_as_the_manifests_say():
    assert list(stages())[-1] == "server", "what `docker build` makes without --target"
    traefik = Overlay("traefik")
    for stage, name in [("server", "quicket"), ("frontend", "quicket-frontend")]:
        user = pod(traefik.named("Deployment", name))["securityContext"]
        assert f"\nUSER {user['runAsUser']}:{user['runAsGroup']}\n" in stages()[stage]
        assert re.search(r'^ENTRYPOINT \["', stages()[stage], re.M), "exec form: no shell as PID 1"
        assert "RUN" not in stages()[stage], "these images have no shell, or need none"


def below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_the_page_in_the_images_is_the_one_that_make_builds(tmp_path):
    """Both images take the page of one stage, whose commands are run here as they stand in the Dockerfile."""
    for stage in ["build", "frontend"]:
        assert "\nCOPY --from=page /src/frontend/dist " in stages()[stage]
    instructions = re.findall(r"^(COPY|RUN) (.*)$", stages()["page"], re.M)
    assert [kind for kind, _ in instructions] == ["COPY", "RUN", "COPY", "RUN"]
    (_, locked), (_, install), (_, sources), (_, build) = instructions
    assert locked.split() == ["frontend/package.json", "frontend/package-lock.json", "./"]
    assert sources.split() == ["frontend", "./"]
    assert install.startswith("npm ci"), "from the lock file, as make does, whose modules are taken here"
    page, made = tmp_path / "frontend", ROOT / "frontend"
    ignored = [line.removeprefix("frontend/") for line in (ROOT / ".dockerignore").read_text().splitlines()]
    shutil.copytree(made, page, ignore=lambda folder, names: set(names) & set(ignored) if folder == str(made) else [])
    assert not (page / "dist").exists()
    shutil.copytree(made / "node_modules", page / "node_modules", copy_function=os.link, symlinks=True)
    subprocess.run(["sh", "-ec", build], cwd=page, check=True, capture_output=True)
    files = below(page / "dist")
    assert files == below(made / "dist") and len(files) > 10
    assert filecmp.cmpfiles(page / "dist", made / "dist", files, shallow=False) == (files, [], [])


def test_all_say_the_same_version():
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    images = {service["image"] for service in COMPOSE.values()}
    for overlay in map(Overlay, OVERLAYS):
        images |= {c["image"] for w in overlay.workloads() for c in containers(w)}
    ours = {image for image in images if "quicket" in image}
    assert len(ours) >= 2 and {image.rpartition(":")[2] for image in ours} == {version}
    assert len({image for image in images if "valkey" in image}) <= 2
    assert not [image for image in images if image.endswith(":latest") or ":" not in image]


def test_compose_runs_two_nodes_with_settings_that_are_right():
    nodes = {name: service for name, service in COMPOSE.items() if name.startswith("node-")}
    assert len(nodes) == 2
    for service in nodes.values():
        environment = service["environment"]
        assert check_config(environment).returncode == 0
        # UDP goes to the node itself, at the port that it tells pages
        assert service["ports"] == [f"{environment['WEBTRANSPORT_PUBLIC_PORT']}:3000/udp"]
        assert seconds(service["stop_grace_period"]) > seconds(environment["SHUTDOWN_GRACE"]) + BESIDE_GRACE
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    rows = re.findall(r"^\| `--[a-z-]+` \| `([A-Z_]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.M)
    assert set().union(*(service["environment"] for service in nodes.values())) <= set(rows)
    assert "noeviction" in COMPOSE["redis"]["command"]


def test_the_proxy_of_compose_knows_both_nodes():
    proxy = COMPOSE["proxy"]["environment"]
    assert {proxy["NODE_1"], proxy["NODE_2"]} == {"node-1:3000", "node-2:3000"}
    wanted = set(re.findall(r'"\$\{(\w+)\}"', (ROOT / "docker/haproxy.cfg").read_text()))
    assert wanted == set(proxy)
