"""docs/kubernetes.md, followed from top to bottom as far as it goes without a cluster."""

import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from rendered import MANIFESTS, OVERLAYS, ROOT, Overlay, containers, pod

PAGE = (ROOT / "docs/kubernetes.md").read_text()
KUBECTL = ROOT / "scripts/kubectl"
NAMESPACE = "quicket"


def step(number):
    """The text of a step, up to the next one or the next chapter."""
    found = re.search(rf"^\*\*{number}\. .*?(?=^\*\*{number + 1}\. |^## )", PAGE, re.M | re.S)
    assert found, f"there is no step {number}"
    return found[0]


def code(text, language="sh"):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def shell(script, folder):
    """Runs commands of the page, `kubectl` being the one of the tests."""
    script = f'kubectl() {{ "{KUBECTL}" "$@"; }}\n{script}'
    done = subprocess.run(["sh", "-euc", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def key_pair(folder):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 1"
    subprocess.run(
        [*command.split(), "-keyout", folder / "key.pem", "-out", folder / "fullchain.pem"],
        capture_output=True,
        check=True,
    )


@pytest.fixture(name="secrets", scope="module")
def created(tmp_path_factory):
    """{name: {key: value}} of what the commands of step 4 create."""
    folder = tmp_path_factory.mktemp("secrets")
    key_pair(folder)
    (script,) = code(step(4))
    commands = [line for line in script.splitlines() if line.startswith("kubectl")]
    dry = "\n".join(f"{line} --dry-run=client --output yaml && echo ---" for line in commands)
    objects = [each for each in yaml.safe_load_all(shell(dry, folder)) if each]
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "Namespace"] == [NAMESPACE]
    found = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "Secret"}
    assert len(found) == len(commands) - 1
    assert all(each["metadata"]["namespace"] == NAMESPACE for each in objects if each["kind"] == "Secret")
    return found


def wanted(overlay):
    """(name, key) of each Secret that pods of the overlay want; the key is None for a whole volume."""
    for workload in overlay.workloads():
        for container in containers(workload):
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    yield reference["name"], reference["key"]
        for volume in pod(workload).get("volumes", []):
            if "secret" in volume:
                yield volume["secret"]["secretName"], None


@pytest.mark.parametrize("overlay", [Overlay(name) for name in OVERLAYS], ids=repr)
def test_the_secrets_that_pods_want_are_those_that_the_page_creates(overlay, secrets):
    made = {each["spec"]["secretName"] for each in overlay.all("Certificate")}
    for name, key in wanted(overlay):
        if name in made:
            continue
        assert name in secrets, f"nobody makes the Secret {name}"
        # an external Redis has its own line on the page, as a comment
        if (name, key) == ("quicket-redis", "url"):
            assert "--from-literal=url=redis" in step(4)
        else:
            assert key is None or key in secrets[name], f"the Secret {name} has no {key}"


def test_no_secret_of_the_page_is_for_nobody(secrets):
    used = {name for overlay in map(Overlay, OVERLAYS) for name, _ in wanted(overlay)}
    assert set(secrets) <= used, set(secrets) - used


def test_a_folder_of_one_s_own_renders_with_a_setting_of_one_s_own(tmp_path):
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    (script,) = code(step(3))
    before = list(yaml.safe_load_all(shell(script, tmp_path)))
    assert len(before) > 10
    mine = tmp_path / "manifests/overlays/mine/kustomization.yaml"
    (snippet,) = code(step(3), "yaml")
    mine.write_text(mine.read_text() + snippet)
    shown = next(line for line in script.splitlines() if line.startswith("kubectl kustomize"))
    after = Overlay("mine", list(yaml.safe_load_all(shell(shown, tmp_path))))
    (literal,) = yaml.safe_load(snippet)["configMapGenerator"][0]["literals"]
    name, value = literal.split("=", 1)
    assert after.settings()[name] == value
    # a changed setting rolls the pods: the ConfigMap has another name
    names = [[each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap"] for found in (before, after.objects)]
    assert names[0] != names[1]


def test_what_the_page_asks_of_the_cluster_is_there():
    production = Overlay("production")
    asked = re.findall(r"kubectl -n (\S+) .*?(deployment)/(\S+?)[`\s]", PAGE)
    assert len(asked) >= 2
    for namespace, _, name in asked:
        assert namespace == NAMESPACE and production.named("Deployment", name)
    (name, image), = re.findall(r"set image deployment/quicket (\w+)=(\S+?):", PAGE)
    container = containers(production.named("Deployment", "quicket"))[0]
    assert (container["name"], container["image"].rpartition(":")[0]) == (name, image)
    for image in re.findall(r"docker push (\S+)", step(1)):
        assert any(image == each["image"] for w in production.workloads() for each in containers(w)), image


def test_every_file_component_and_overlay_that_the_page_names_is_there():
    rows = re.findall(r"^\| `([a-z-]+)` \|", step(2), re.M)
    assert set(OVERLAYS) - set(rows) == {"production"}, "the table has all overlays"
    for path in re.findall(r"`((?:tests|src|manifests|docs)/[\w./-]+)`", PAGE):
        assert pathlib.Path(ROOT / path).exists() or path == "manifests/", path
    for name in re.findall(r"[Cc]omponent `([a-z-]+)`", PAGE):
        assert (MANIFESTS / "components" / name).is_dir(), name
