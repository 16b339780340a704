"""Every object is one that the API server, or the custom resource's definition, would take."""

import copy
import re

import jsonschema
import kubernetes_validate
import pytest
from rendered import MANIFESTS, OVERLAYS, ROOT, Overlay, schemas, text

# Supported in November 2026.
OLDEST, NEWEST = "1.35", "1.37"


def strict(schema):
    """Unknown fields are mistakes, as `kubectl --validate=strict` has it."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and schema.get("type") == "object":
            made.setdefault("additionalProperties", False)
    # structural schemas repeat no properties in these, so strictness there would forbid everything
    for alternatives in ("oneOf", "anyOf", "allOf", "not"):
        if alternatives in schema:
            made[alternatives] = schema[alternatives]
    return made


CUSTOM = {key: strict(schema) for key, schema in schemas().items()}


def check(each, version):
    kind = each["kind"]
    schema = CUSTOM.get((each["apiVersion"], kind))
    if schema is None:
        # raises for unknown fields; an unknown kind would only warn
        kubernetes_validate.validate(copy.deepcopy(each), version, strict=True)
        return
    errors = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(each)
    ]
    assert not errors, f"{kind}: {errors}"


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid(overlay, version):
    objects = Overlay(overlay).objects
    assert len(objects) > 5
    for each in objects:
        check(each, version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_object_is_there_twice_and_all_are_in_the_namespace(overlay):
    seen = set()
    for each in Overlay(overlay).objects:
        key = (each["apiVersion"], each["kind"], each["metadata"]["name"])
        assert key not in seen
        seen.add(key)
        if each["kind"] != "Namespace":
            assert each["metadata"].get("namespace") == "quicket", key


def test_every_component_is_used_by_an_overlay():
    texts = [path.read_text() for path in MANIFESTS.rglob("kustomization.yaml")]
    used = set(re.findall(r"^ *- (?:\.\./)+(?:components/)?([a-z-]+)\b", "\n".join(texts), re.M))
    components = {path.name for path in (MANIFESTS / "components").iterdir()}
    assert components <= used, components - used


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_annotations_are_ones_that_a_controller_reads(overlay):
    """A misspelt annotation is ignored without a word. The list says where each was read."""
    lines = (ROOT / "tests/manifests/annotations.txt").read_text().splitlines()
    known = {line.split("#")[0].strip() for line in lines}
    for each in Overlay(overlay).objects:
        template = each.get("spec", {}).get("template", {}).get("metadata", {})
        for place in (each["metadata"], template):
            unknown = set(place.get("annotations") or {}) - known
            assert not unknown, f"{each['kind']}: {unknown}"


def test_only_the_site_says_its_host_name():
    assert "example.com" not in text("production")
    for overlay in set(OVERLAYS) - {"production"}:
        assert "board.example.org" not in text(overlay)


def test_the_checks_here_can_fail():
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(service, NEWEST)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check({"apiVersion": "example.com/v1", "kind": "Nobody", "metadata": {"name": "a"}}, NEWEST)
    for kind, version, spec in [
        ("ScaledObject", "keda.sh/v1alpha1", {"scaleTargetRef": {"name": "a"}, "triggers": [], "minReplicas": 1}),
        ("HTTPProxy", "projectcontour.io/v1", {"routes": [{"enableWebsocket": True}]}),
        ("HTTPRoute", "gateway.networking.k8s.io/v1", {"rules": [{"sessionPersistence": {}}]}),
        ("DestinationRule", "networking.istio.io/v1", {"host": "a", "trafficPolicy": {"loadBalancer": {"hash": {}}}}),
        ("Certificate", "cert-manager.io/v1", {"secretName": "a", "issuerRef": {"name": "a"}, "privateKey": {"algorithm": "ECDSAA"}}),
    ]:
        with pytest.raises(AssertionError):
            check({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec}, NEWEST)
