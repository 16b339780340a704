"""The overlays as kubectl renders them, and how to find one's way in them."""

import functools
import json
import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
PODS = {"Deployment", "StatefulSet"}


@functools.cache
def text(overlay):
    command = [ROOT / "scripts/kubectl", "kustomize", MANIFESTS / "overlays" / overlay]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecated fields
    return done.stdout


class Overlay:
    """The objects of one overlay."""

    def __init__(self, name, objects=None):
        self.name = name
        self.objects = list(yaml.safe_load_all(text(name))) if objects is None else objects

    def __repr__(self):
        return self.name

    def all(self, *kinds):
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind, name, group=None):
        """The object, or None."""
        found = [
            each
            for each in self.all(kind)
            if each["metadata"]["name"] == name and group in (None, group_of(each))
        ]
        assert len(found) < 2, f"{kind} {name} is there twice"
        return found[0] if found else None

    def workloads(self):
        return self.all(*PODS)

    def selected(self, selector):
        """The workloads whose pods carry all labels of the selector."""
        assert selector, "an empty selector is everything"
        return [w for w in self.workloads() if selector.items() <= labels(w).items()]

    def settings(self):
        """What the server's container has in its environment; secrets as dummies."""
        container = containers(self.named("Deployment", "quicket"))[0]
        values = {}
        for source in container.get("envFrom", []):
            config = self.named("ConfigMap", source["configMapRef"]["name"])
            assert config, f"no ConfigMap {source['configMapRef']['name']}"
            values |= config["data"]
        for variable in container.get("env", []):
            values[variable["name"]] = variable.get("value") or dummy(variable)
        return values


def dummy(variable):
    source = variable["valueFrom"]
    if "fieldRef" in source:
        assert source["fieldRef"]["fieldPath"] == "metadata.uid"
        return "01234567-89ab-cdef-0123-456789abcdef"
    return "redis://quicket-redis:6379" if source["secretKeyRef"]["key"] == "url" else "a secret of some length" * 2


def group_of(each):
    return each["apiVersion"].rpartition("/")[0]


def pod(workload):
    return workload["spec"]["template"]["spec"]


def labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def containers(workload):
    return pod(workload)["containers"]


def ports(workload):
    """{name: (number, protocol)} of its pods."""
    found = {}
    for container in containers(workload):
        for port in container.get("ports", []):
            assert port["name"] not in found, f"port {port['name']} is there twice"
            found[port["name"]] = (port["containerPort"], port["protocol"])
    return found


def seconds(text_of_duration):
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)):
        number = text_of_duration.removesuffix(unit)
        if number != text_of_duration and number.isdigit():
            return int(number) * factor
    return int(text_of_duration) / 1000


def binary():
    """The server: $QUICKET, or what was built last."""
    given = os.environ.get("QUICKET")
    built = [ROOT / "target" / kind / "quicket" for kind in ("debug", "release")]
    built = sorted((each for each in built if each.exists()), key=lambda each: each.stat().st_mtime)
    path = pathlib.Path(given) if given else (built[-1] if built else None)
    assert path and path.exists(), "build the server first: cargo build --bin quicket"
    return path


def schemas():
    """{(apiVersion, kind): schema} of the custom resources."""
    found = {}
    for path in (ROOT / "tests/manifests/schemas").glob("*.json"):
        known = json.loads(path.read_text())
        for version in known["versions"]:
            found[f"{known['group']}/{version}", known["kind"]] = known["schema"]
    return found
