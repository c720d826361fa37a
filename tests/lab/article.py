"""The article's scenario: nginx, a policy that lets pods with access=true in, one pod that has it, one not."""

from __future__ import annotations

from typing import Any

from .cluster import LabCluster

NODE = "ip-172-31-103-129.ap-northeast-1.compute.internal"
NODE_IP = "172.31.103.129"
NGINX, NGINX_IP = "nginx-f8d9c6576-8b4vf", "172.31.104.5"
TRUE_IP, FALSE_IP = "172.31.101.218", "172.31.96.116"
# The same in a cluster of IPv6.
NODE_IP6, NGINX_IP6 = "2001:db8:1f:9600::129", "2001:db8:1f:9600:68::5"
TRUE_IP6, FALSE_IP6 = "2001:db8:1f:9600:65::218", "2001:db8:1f:9600:60::116"
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: access-nginx
spec:
  podSelector:
    matchLabels:
      app: nginx
  ingress:
  - from:
    - podSelector:
        matchLabels:
          access: "true"
"""


def build(lab: LabCluster) -> None:
    """Make the article's objects with the article's kubectl commands, and wait until they are in the kernel."""
    lab.server.controllers.name_hook = lambda kind, base: {"Pod": NGINX, "ReplicaSet": "nginx-f8d9c6576"}.get(kind)
    lab.add_node(NODE, NODE_IP if lab.family == 4 else NODE_IP6)
    lab.kubectl("apply", "-f", "-", input=POLICY)
    lab.kubectl("create", "deploy", "nginx", "--image=nginx", "--replicas=1")
    lab.kubectl("expose", "deploy", "nginx", "--port", "80")
    lab.kubectl("run", "accesstrue", "--image=busybox", "--labels", "access=true", "--", "sleep", "infinity")
    lab.kubectl("run", "accessfalse", "--image=busybox", "--labels", "access=false", "--", "sleep", "infinity")
    for name in (NGINX, "accesstrue", "accessfalse"):
        lab.server.wait_running(name)
    lab.settle()


def addresses(family: int = 4) -> dict[str, str]:
    """Pod name (nginx: its beginning) -> address."""
    found = (NGINX_IP, TRUE_IP, FALSE_IP) if family == 4 else (NGINX_IP6, TRUE_IP6, FALSE_IP6)
    return dict(zip(("nginx", "accesstrue", "accessfalse"), found, strict=True))


def cluster(**more: Any) -> LabCluster:
    """`more`: of LabCluster, as generation="1.3.5" or family=6."""
    return LabCluster(addresses=addresses(more.get("family", 4)), **more)
