"""A kind cluster that stands in for EKS: VPC CNI's names and objects, the lab's agent on its node, the article's pods.

API server, kubelet, container runtime, scheduler, DNS and Services are the real ones. What AWS runs, the network policy
controller and agent, are the lab's.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.e2e import images
from tests.e2e.node import KindNode
from tests.lab import agent_pod, cni_objects, controller
from tests.lab.agent import GENERATIONS, Agent
from tests.lab.article import POLICY
from tests.lab.flowlog import FlowLog
from tests.lab.netns import wait_until

Json = dict[str, Any]

HERE = Path(__file__).parent
GENERATION = GENERATIONS["1.4.1"]
LONGEST_WAIT = "180s"
POLICY_ENDPOINTS = "policyendpoints.networking.k8s.aws"


class Cluster:
    """``settle`` does what controller and agent do on EKS by themselves."""

    def __init__(self, name: str, kind: Path, kubeconfig: Path) -> None:
        self.name, self.kind, self.kubeconfig = name, kind, kubeconfig
        self.environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_COLOR": "1"}

    # kubectl ----------------------------------------

    def kubectl(self, *words: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", *words],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done

    def get(self, *words: str) -> list[Json]:
        """Objects: ``get("pods", "-A")``."""
        found: list[Json] = json.loads(self.kubectl("get", *words, "-o", "json").stdout)["items"]
        return found

    def ensure(self, *words: str) -> None:
        """What a kubectl command makes, also where a cluster that was taken has it already."""
        made = self.kubectl(words[0], "--dry-run=client", "-o", "yaml", *words[1:])
        self.kubectl("apply", "-f", "-", stdin=made.stdout)

    def apply(self, *objects: Json) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def wait(self, what: str, condition: str, *more: str) -> None:
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={LONGEST_WAIT}", *more)

    # the beginning ----------------------------------------

    def set_up(self) -> None:
        # The controller manager gives it a subnet a moment after it joined.
        wait_until(lambda: "podCIDR" in self.get("nodes")[0]["spec"], "the node's podCIDR", 60)
        [node] = self.get("nodes")
        addresses = {one["type"]: one["address"] for one in node["status"]["addresses"]}
        self.node = KindNode(node["metadata"]["name"], addresses["InternalIP"])
        self.node.set_up(node["spec"]["podCIDR"])
        self._load_images()
        self.wait("nodes", "condition=Ready", "--all")
        self._install_vpc_cni()
        self.wait("pods", "condition=Ready", "--all", "-n", "kube-system")
        self.agent = Agent(self.node, GENERATION)  # type: ignore[arg-type]
        self.flow_log = FlowLog(self.agent)
        self._make_the_articles_objects()
        self.settle()

    def close(self) -> None:
        """What the agent made is taken off the node, which may go on."""
        with self.flow_log:
            self.flow_log.path.unlink()
        for namespace, name in list(self.node.pods):
            self.agent.pod_removed(namespace, name)
        self.node.close()

    def _load_images(self) -> None:
        aws = (agent_pod.cni_image(GENERATION), f"{agent_pod.AGENT_IMAGE}:v{GENERATION.name}-eksbuild.1")
        tags = [f"{agent_pod.REGISTRY}/{one}" for one in aws]
        for tag in tags:
            subprocess.run(["docker", "tag", images.PLAIN.value, tag], check=True)
        names = [*(one.value for one in images.OF_PODS), *tags]
        command = [str(self.kind), "load", "docker-image", "--name", self.name, *dict.fromkeys(names)]
        subprocess.run(command, check=True, capture_output=True)

    def _install_vpc_cni(self) -> None:
        self.kubectl("apply", "-f", str(HERE / "crds.yaml"))
        self.wait("crd", "condition=Established", "--all")
        made = cni_objects.daemonset(GENERATION)
        pod = made["spec"]["template"]["spec"]
        full = agent_pod.manifest("node", GENERATION)["spec"]
        pod |= {key: full[key] for key in ("volumes", "tolerations", "terminationGracePeriodSeconds")}
        for container in pod["containers"]:
            container["command"] = ["sleep", "infinity"]
        self.apply(made, cni_objects.config_map(), cni_objects.cluster_role())
        self.kubectl("rollout", "status", "daemonset/aws-node", "-n", "kube-system", f"--timeout={LONGEST_WAIT}")

    def _make_the_articles_objects(self) -> None:
        self.kubectl("apply", "-f", "-", stdin=POLICY)
        self.ensure("create", "deploy", "nginx", f"--image={images.WEB.value}", "--replicas=1")
        self.ensure("create", "service", "clusterip", "nginx", "--tcp=80")
        for access in ("true", "false"):
            labels = f"--labels=access={access}"
            self.ensure("run", f"access{access}", f"--image={images.PLAIN.value}", labels, "--", "sleep", "infinity")
        self.kubectl("rollout", "status", "deploy/nginx", f"--timeout={LONGEST_WAIT}")
        self.wait("pods", "condition=Ready", "--all")

    # controller and agent ----------------------------------------

    def settle(self) -> None:
        """Policies resolved into PolicyEndpoints, and these programmed."""
        self.resolve()
        self.program()

    def resolve(self) -> None:
        """The controller's part; what no policy asks for any more is deleted."""
        lists = (self.get(kind, "-A") for kind in ("networkpolicies", "pods", "namespaces", "services"))
        wanted = controller.resolve(*lists)
        if wanted:
            self.apply(*wanted)
        names = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in wanted}
        for old in self.get(POLICY_ENDPOINTS, "-A"):
            meta = old["metadata"]
            if (meta["namespace"], meta["name"]) not in names:
                self.kubectl("delete", POLICY_ENDPOINTS, meta["name"], "-n", meta["namespace"])

    def program(self) -> None:
        """The agent's part: probes on each pod that is new, none where one is gone, and the maps."""
        now = {(pod["metadata"]["namespace"], pod["metadata"]["name"]): pod for pod in self.get("pods", "-A")}
        for key in set(self.node.pods) - set(now):
            self.agent.pod_removed(*key)
            del self.node.pods[key]
        for key, pod in now.items():
            if key not in self.node.pods and pod["status"].get("phase") == "Running":
                self.node.take(pod)
                self.agent.pod_added(*key)
        self.agent.sync(self.get(POLICY_ENDPOINTS, "-A"))

    def pod(self, beginning: str, namespace: str = "default") -> Json:
        """The one pod whose name begins so."""
        [found] = [one for one in self.get("pods", "-n", namespace) if one["metadata"]["name"].startswith(beginning)]
        return found
