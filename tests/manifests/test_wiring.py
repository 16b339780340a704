"""What no schema sees: the objects fit each other, the pods, and what they stand for."""

import pytest
from rendered import OVERLAYS, Overlay, containers, labels, pod, ports

pytestmark = pytest.mark.parametrize("overlay", [Overlay(name) for name in OVERLAYS], ids=repr)

# overlays in which a proxy ends TLS, and how each says that a client stays on its pod
STICKY = {
    "traefik": ("Service", "quicket", "traefik.ingress.kubernetes.io/service.sticky.cookie", "true"),
    "haproxy-ingress": ("Service", "quicket", "haproxy-ingress.github.io/affinity", "cookie"),
    "haproxy-ingress-sid": ("Service", "quicket", "haproxy-ingress.github.io/config-backend", "urlp(sid)"),
    "nginx": ("Ingress", "quicket", "nginx.org/sticky-cookie-services", "serviceName=quicket "),
    "ingress-nginx": ("Ingress", "quicket", "nginx.ingress.kubernetes.io/affinity", "cookie"),
    "aws-alb": ("Service", "quicket", "alb.ingress.kubernetes.io/target-group-attributes", "stickiness.enabled=true"),
    "webtransport-aws-nlb-quic": (
        "Service",
        "quicket-public",
        "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes",
        "stickiness.type=source_ip",
    ),
}
# annotations whose value is seconds that must be above a poll (25 s) and its pong (20 s)
TIMEOUTS = {
    "haproxy-ingress": ["haproxy-ingress.github.io/timeout-server", "haproxy-ingress.github.io/timeout-tunnel"],
    "haproxy-ingress-sid": ["haproxy-ingress.github.io/timeout-server", "haproxy-ingress.github.io/timeout-tunnel"],
    "nginx": ["nginx.org/proxy-read-timeout", "nginx.org/proxy-send-timeout"],
    "ingress-nginx": ["nginx.ingress.kubernetes.io/proxy-read-timeout", "nginx.ingress.kubernetes.io/proxy-send-timeout"],
}


def test_a_service_reaches_ports_that_its_pods_have(overlay):
    services = overlay.all("Service")
    assert len(services) >= 3
    for service in services:
        spec, name = service["spec"], service["metadata"]["name"]
        pods = overlay.selected(spec["selector"])
        assert len(pods) == 1, f"{name} selects {len(pods)} workloads"
        known = ports(pods[0])
        names = [port["name"] for port in spec["ports"]]
        assert len(set(names)) == len(names)
        for port in spec["ports"]:
            assert port["targetPort"] in known, f"{name}: no port {port['targetPort']}"
            assert known[port["targetPort"]][1] == port["protocol"], f"{name}: {port}"
    for workload in overlay.all("StatefulSet"):
        assert overlay.named("Service", workload["spec"]["serviceName"])


def test_tcp_and_udp_have_one_number_inside_and_outside(overlay):
    server = ports(overlay.named("Deployment", "quicket"))
    assert server["web"] == (3000, "TCP") and server["quic"] == (3000, "UDP")
    outside = [s for s in overlay.all("Service") if s["spec"].get("type") == "LoadBalancer"]
    udp = [p for s in outside for p in s["spec"]["ports"] if p["protocol"] == "UDP"]
    assert [p["port"] for p in udp] == [443], "WebTransport has one way in"
    settings = overlay.settings()
    assert settings["WEBTRANSPORT_PUBLIC_PORT"] == "443", "and pages are told of it"
    assert int(settings["PORT"]) == server["web"][0] and int(settings["ADMIN_PORT"]) == server["admin"][0]


def backends(overlay):
    """(service, port number or name) of every HTTP route."""
    for ingress in overlay.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                yield service["name"], service["port"].get("name") or service["port"]["number"]
    for route in overlay.all("HTTPRoute"):
        assert route["spec"]["parentRefs"][0]["name"] == "quicket"
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                yield backend["name"], backend["port"]
    for route in overlay.all("HTTPProxy"):
        for each in route["spec"]["routes"]:
            for service in each["services"]:
                yield service["name"], service["port"]
    for route in overlay.all("VirtualService"):
        for each in route["spec"]["http"]:
            for target in each["route"]:
                yield target["destination"]["host"], target["destination"]["port"]["number"]


def test_routes_lead_to_tcp_ports_of_services(overlay):
    found = set(backends(overlay))
    for name, port in found:
        service = overlay.named("Service", name)
        assert service, name
        hits = [p for p in service["spec"]["ports"] if port in (p["name"], p["port"]) and p["protocol"] == "TCP"]
        assert len(hits) == 1, (name, port)
    proxied = overlay.settings().get("TLS_TCP") == "false"
    # behind a proxy all three paths are routed; without one the server has TLS and the page
    assert {name for name, _ in found} == ({"quicket", "quicket-frontend"} if proxied else set())
    assert bool(overlay.named("Deployment", "quicket-frontend")) == proxied


def test_policies_and_disruption_budgets_select_the_workloads(overlay):
    policies = overlay.all("NetworkPolicy")
    for workload in overlay.workloads():
        hits = [p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels(workload).items()]
        assert len(hits) == 1, f"{workload['metadata']['name']}: {len(hits)} policies"
        assert set(hits[0]["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        known, open_ports = ports(workload), set()
        for rule in hits[0]["spec"].get("ingress", []):
            for port in rule["ports"]:
                assert known[port["port"]][1] == port["protocol"], "a protocol is named, and it is the port's"
                if "from" not in rule:
                    open_ports.add(port["port"])
        public = {
            port["targetPort"]
            for service in overlay.all("Service")
            if service["spec"].get("clusterIP") != "None"
            and service["spec"]["selector"].items() <= labels(workload).items()
            for port in service["spec"]["ports"]
        }
        assert public == open_ports, "what Services show is what the policy lets in"
    for budget in overlay.all("PodDisruptionBudget"):
        assert len(overlay.selected(budget["spec"]["selector"]["matchLabels"])) == 1


def test_the_server_may_reach_dns_and_redis_and_nothing_else(overlay):
    rules = overlay.named("NetworkPolicy", "quicket")["spec"]["egress"]
    allowed = {(port["protocol"], port["port"]) for rule in rules for port in rule["ports"]}
    assert {("UDP", 53), ("TCP", 53)} <= allowed
    rest = allowed - {("UDP", 53), ("TCP", 53)}
    redis = overlay.named("StatefulSet", "quicket-redis")
    assert rest == ({("TCP", "redis")} if redis else {("TCP", 6379), ("TCP", 26379)})
    if redis:
        assert overlay.selected(rules[-1]["to"][0]["podSelector"]["matchLabels"]) == [redis]
        ingress = overlay.named("NetworkPolicy", "quicket-redis")["spec"]["ingress"]
        assert overlay.selected(ingress[0]["from"][0]["podSelector"]["matchLabels"]) == [
            overlay.named("Deployment", "quicket")
        ]


def test_one_autoscaler_and_a_budget_that_lets_nodes_be_drained(overlay):
    scalers = [
        (each["spec"]["scaleTargetRef"]["name"], each["spec"][least], each["spec"][most])
        for kind, least, most in [
            ("HorizontalPodAutoscaler", "minReplicas", "maxReplicas"),
            ("ScaledObject", "minReplicaCount", "maxReplicaCount"),
        ]
        for each in overlay.all(kind)
    ]
    assert len(scalers) == 1, "two would pull in two directions"
    name, least, most = scalers[0]
    assert name == "quicket" and 2 <= least < most
    assert "replicas" not in overlay.named("Deployment", "quicket")["spec"], "the autoscaler has that number"
    for budget in overlay.all("PodDisruptionBudget"):
        workload = overlay.selected(budget["spec"]["selector"]["matchLabels"])[0]
        replicas = workload["spec"].get("replicas", least)
        assert "minAvailable" not in budget["spec"]
        assert 0 < budget["spec"]["maxUnavailable"] < replicas


def test_rollouts_and_spread_are_for_these_pods(overlay):
    for workload in overlay.all("Deployment"):
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels(workload).items()
        for constraint in pod(workload)["topologySpreadConstraints"]:
            assert overlay.selected(constraint["labelSelector"]["matchLabels"]) == [workload]
            assert constraint["matchLabelKeys"] == ["pod-template-hash"]
    spec = overlay.named("Deployment", "quicket")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["progressDeadlineSeconds"] > 10 * spec["template"]["spec"]["terminationGracePeriodSeconds"]


def test_every_proxy_keeps_polling_clients_on_their_pod(overlay):
    services = [s for s in overlay.all("Service") if s["spec"].get("sessionAffinity") == "ClientIP"]
    if str(overlay) in STICKY:
        kind, name, key, value = STICKY[str(overlay)]
        assert value in overlay.named(kind, name)["metadata"]["annotations"][key]
    elif overlay.all("DestinationRule"):
        rule = overlay.all("DestinationRule")[0]["spec"]
        assert rule["host"] == "quicket"
        assert rule["trafficPolicy"]["loadBalancer"]["consistentHash"]["httpCookie"]["path"] == "/socket.io/"
    elif overlay.all("HTTPProxy"):
        routes = overlay.all("HTTPProxy")[0]["spec"]["routes"]
        assert [r["loadBalancerPolicy"]["strategy"] for r in routes if r.get("enableWebsockets")] == ["Cookie"]
    elif overlay.all("BackendTrafficPolicy"):
        policy = overlay.all("BackendTrafficPolicy")[0]["spec"]
        assert policy["loadBalancer"]["consistentHash"]["type"] == "Cookie"
        assert overlay.named("HTTPRoute", policy["targetRefs"][0]["name"])
    elif overlay.all("GCPBackendPolicy"):
        policy = overlay.all("GCPBackendPolicy")[0]["spec"]
        assert policy["default"]["sessionAffinity"]["type"] == "GENERATED_COOKIE"
        assert policy["targetRef"]["name"] == "quicket"
    elif str(overlay) == "production":  # whose base is another overlay
        assert "traefik" in str(overlay.named("Service", "quicket")["metadata"]["annotations"])
    else:
        assert len(services) == 1, "without a proxy the client's address has to do"


def test_no_proxy_cuts_a_poll_or_a_websocket(overlay):
    for key in TIMEOUTS.get(str(overlay), []):
        holders = [o for o in overlay.all("Service", "Ingress") if key in o["metadata"].get("annotations", {})]
        assert len(holders) == 1, key
        value = holders[0]["metadata"]["annotations"][key]
        unit = {"s": 1, "h": 3600}.get(value[-1], 1)
        assert int(value.rstrip("sh")) * unit > 45, key
    for policy in overlay.all("GCPBackendPolicy"):
        assert policy["spec"]["default"]["timeoutSec"] >= 3600
    for policy in overlay.all("BackendTrafficPolicy"):
        assert policy["spec"]["timeout"]["http"]["requestTimeout"] == "0s"
    for route in overlay.all("HTTPProxy"):
        held = [r for r in route["spec"]["routes"] if r.get("enableWebsockets")]
        assert held[0]["timeoutPolicy"]["response"] == "infinity"


def test_pods_are_what_pod_security_restricted_demands(overlay):
    enforced = overlay.named("Namespace", "quicket")["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in overlay.workloads():
        spec = pod(workload)
        forbidden = {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"}
        assert not forbidden & spec.keys()
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"secret", "emptyDir", "configMap", "projected"}
        for container in containers(workload):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert not any("hostPort" in port for port in container["ports"])


def test_images_are_pinned_and_from_nobody_who_withdrew_them(overlay):
    for workload in overlay.workloads():
        for container in containers(workload):
            name, _, tag = container["image"].rpartition(":")
            assert name and tag and tag != "latest" and "/" not in tag
            assert "bitnami" not in container["image"]


def test_redis_keeps_what_it_has_taken(overlay):
    redis = overlay.named("StatefulSet", "quicket-redis")
    if redis is None:
        assert overlay.settings()["REDIS_URL"]
        return
    container = containers(redis)[0]
    args = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert args["--maxmemory-policy"] == "noeviction" and args["--appendonly"] == "yes"
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Mi") and args["--maxmemory"].endswith("mb")
    assert int(args["--maxmemory"][:-2]) <= 0.75 * int(limit[:-2])
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claim = redis["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]
    assert mounted[claim] == args["--dir"]
    assert overlay.settings()["REDIS_URL"] == "redis://quicket-redis:6379"
    # both read one Secret
    password = next(v for v in container["env"] if v["name"] == "REDISCLI_AUTH")
    server = containers(overlay.named("Deployment", "quicket"))[0]
    assert next(v for v in server["env"] if v["name"] == "REDIS_PASSWORD")["valueFrom"] == password["valueFrom"]


def test_the_certificate_lands_where_the_server_reads_it(overlay):
    spec = pod(overlay.named("Deployment", "quicket"))
    volume = next(v for v in spec["volumes"] if v["name"] == "tls")
    for certificate in overlay.all("Certificate"):
        assert certificate["spec"]["secretName"] == volume["secret"]["secretName"]
        assert certificate["spec"]["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    mount = next(m for m in containers(overlay.named("Deployment", "quicket"))[0]["volumeMounts"] if m["name"] == "tls")
    assert "subPath" not in mount, "it would never see a renewed certificate"
    settings = overlay.settings()
    assert settings["TLS_CERT"] == f"{mount['mountPath']}/tls.crt"
    assert settings["TLS_KEY"] == f"{mount['mountPath']}/tls.key"
