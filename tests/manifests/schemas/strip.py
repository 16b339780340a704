"""Makes the schemas in this folder: python3 strip.py KIND... < CustomResourceDefinitions.yaml

Reads CustomResourceDefinitions (several documents are fine) and writes, for each named kind, the schema of its stored
version without descriptions and defaults. `REVISIONS.md` says from which revision of which repository each came.
"""

import json
import pathlib
import sys

import yaml

KEPT_APART = {"properties", "patternProperties", "definitions"}  # keys below these are names, not keywords
DROPPED = {"description", "default", "title", "example"}


def strip(schema):
    if isinstance(schema, list):
        return [strip(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in KEPT_APART:
            kept[key] = {name: strip(below) for name, below in value.items()}
        elif key not in DROPPED and not key.startswith("x-kubernetes-validations"):
            kept[key] = strip(value)
    for bound in ("Maximum", "Minimum"):
        # OpenAPI 3.0 has a flag there, JSON Schema the number
        if kept.pop(f"exclusive{bound}", False) is True:
            kept[f"exclusive{bound}"] = kept.pop(bound.lower())
    return kept


def main():
    wanted = set(sys.argv[1:])
    for crd in yaml.safe_load_all(sys.stdin):
        if not crd or crd.get("kind") != "CustomResourceDefinition" or crd["spec"]["names"]["kind"] not in wanted:
            continue
        for version in crd["spec"]["versions"]:
            if not version["storage"]:
                continue
            kind, group = crd["spec"]["names"]["kind"], crd["spec"]["group"]
            # a version that is served with the same schema is as good as the stored one
            served = [each["name"] for each in crd["spec"]["versions"] if each["served"]]
            schema = strip(version["schema"]["openAPIV3Schema"])
            schema["properties"].pop("status", None)
            # Istio's leaves these out
            schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
            out = {"group": group, "kind": kind, "versions": served, "schema": schema}
            path = pathlib.Path(__file__).with_name(f"{group}_{kind}.json")
            path.write_text(json.dumps(out, separators=(",", ":"), sort_keys=True) + "\n")
            print(path.name, served)


main()
