"""What EKS puts on a node for the agent: its pod with two containers, and the CLI; and who is trusted with a node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import agent_pod, na_cli
from tests.lab.cluster import LabCluster
from tests.lab.netns import LabError
from tests.lab.require import require_lab, require_tools

Json = dict[str, Any]
NODE, AUTO_NODE = "node-a.internal", "node-b.internal"
AGENT, CNI = "aws-eks-nodeagent", "aws-node"
V4, V6 = "/aws-eks-na-cli", "/aws-eks-na-cli-v6"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    require_lab()
    require_tools("kubectl", "busybox")
    with LabCluster(agent_pods=True, addresses={"web": "172.31.104.5"}) as made:
        made.add_node(NODE, "172.31.103.129")
        made.kubectl("run", "web", "--image=nginx")
        made.server.wait_running("web")
        made.settle()
        made.add_node(AUTO_NODE, "172.31.103.130", compute_type="auto")
        yield made
        assert not made.server.errors


def run(lab: LabCluster, container: str, *command: str) -> tuple[int, str]:
    """Exit code and both outputs of an exec in the agent's pod."""
    where = ("-n", "kube-system", agent_pod.pod_name(NODE), "-c", container)
    done = lab.kubectl("exec", *where, "--", *command, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_pod_is_that_of_the_daemonset(lab: LabCluster) -> None:
    (pod,) = lab.server.list("Pod", "kube-system", "k8s-app=aws-node")
    assert (pod["spec"]["nodeName"], pod["spec"]["hostNetwork"]) == (NODE, True)
    assert [c["name"] for c in pod["spec"]["containers"]] == [CNI, AGENT]
    privileged = [c["securityContext"].get("privileged", False) for c in pod["spec"]["containers"]]
    assert privileged == [False, True]
    assert [s["name"] for s in pod["status"]["containerStatuses"] if s["ready"]] == [CNI, AGENT]


def test_the_cli_in_its_container_sees_the_pins_of_the_node(lab: LabCluster) -> None:
    code, said = run(lab, AGENT, V4, "ebpf", "loaded-ebpfdata")
    assert (code, "web@default_handle_ingress" in said) == (0, True)
    on_the_node = lab.nodes[NODE].run([na_cli.PATH, "ebpf", "loaded-ebpfdata"], check=True).stdout
    assert said == on_the_node
    assert run(lab, AGENT, V6, "ebpf", "progs")[0] == 0


@pytest.mark.parametrize("program", ["sh", "/bin/sh", "tc", "python3", "ls", "/opt/cni/bin/aws-eks-na-cli"])
def test_there_is_nothing_else_in_it(lab: LabCluster, program: str) -> None:
    code, said = run(lab, AGENT, program)
    assert code == 1
    assert said.count(f'unable to start container process: exec: "{program}": executable file not found in $PATH') == 1
    (pod,) = lab.server.list("Pod", "kube-system", "k8s-app=aws-node")
    container = lab.server.kubelet.handles[pod["metadata"]["uid"]].containers[AGENT]  # type: ignore[attr-defined]
    files = {path.name for path in Path(container.root).iterdir() if path.is_file()}
    assert files == {"controller", V4[1:], V6[1:]}


def test_an_exec_reaches_the_container_that_it_names(lab: LabCluster) -> None:
    code, said = run(lab, CNI, V4, "ebpf", "progs")
    assert (code, "executable file not found" in said) == (1, True)
    assert "container nobody is not valid" in run(lab, "nobody", V4)[1]


def test_auto_mode_has_the_cli_and_no_pod(lab: LabCluster) -> None:
    node = lab.nodes[AUTO_NODE]
    assert node.run([agent_pod.AUTO_MODE_CLI, "ebpf", "progs"]).returncode == 0
    assert not Path(f"{node.root}{na_cli.PATH}").exists()
    with pytest.raises(LabError, match="no DaemonSet aws-node runs on"):
        lab.add_agent_pod(AUTO_NODE)


def test_nodes_have_neither_unless_that_is_asked_for() -> None:
    require_lab()
    with LabCluster(generation="1.2.7", family=6) as lab:
        node = lab.add_node(NODE, "2001:db8:1f:9600::129")
        assert not Path(f"{node.root}{na_cli.PATH}").exists()
        assert lab.server.list("Pod", "kube-system") == []
        name = lab.add_agent_pod(NODE)
        assert [p["metadata"]["name"] for p in lab.server.list("Pod", "kube-system")] == [name]
        assert node.run([na_cli.PATH, "ebpf", "progs"]).returncode == 0


def container_pod(lab: LabCluster, name: str, security: Json, **spec: Any) -> str:
    """A running pod whose container has busybox and the node's bpffs."""
    container = {
        "name": "c",
        "image": "busybox",
        "command": ["sleep", "1000"],
        "securityContext": security,
        "volumeMounts": [{"name": "bpf", "mountPath": "/sys/fs/bpf"}],
    }
    spec = {"nodeName": NODE, "volumes": [{"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}], **spec}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**spec, "containers": [container]}}
    lab.server.create(pod)
    lab.server.wait_running(name)
    return name


ALL: Json = {"capabilities": {"add": ["ALL"]}, "seLinuxOptions": {"type": "super_t"}}


@pytest.mark.parametrize(
    ("name", "security", "volumes", "seen"),
    [
        ("privileged", {"privileged": True}, True, True),
        ("all-capabilities", ALL, True, True),
        ("one-capability", {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, True, True),
        # bpffs is root's, and another user has no capability to pass by that.
        ("another-user", {"runAsUser": 1000}, True, False),
        ("without-the-path", {"capabilities": {"add": ["SYS_ADMIN"]}}, False, False),
    ],
)
def test_who_sees_the_pins_of_the_node(lab: LabCluster, name: str, security: Json, volumes: bool, seen: bool) -> None:
    """The path that is mounted, and the kernel's own rules about files."""
    pod = container_pod(lab, name, security, **({} if volumes else {"volumes": [{"name": "bpf", "emptyDir": {}}]}))
    pins = lab.kubectl("exec", pod, "--", "ls", "/sys/fs/bpf/globals/aws/programs", check=False)
    assert ("web@default_handle_ingress" in pins.stdout) is seen


def test_all_capabilities_are_not_all_of_privileged(lab: LabCluster) -> None:
    """Every capability, but the runtime still masks parts of /proc, and /sys is read-only."""
    pod = container_pod(lab, "capable", ALL, hostNetwork=True)

    def read(path: str) -> str:
        return lab.kubectl("exec", pod, "--", "cat", path).stdout

    status = (read("/proc/self/status"), Path("/proc/self/status").read_text())
    mine, ours = ([line for line in text.splitlines() if line.startswith("CapEff")] for text in status)
    assert mine == ours
    assert (read("/proc/timer_list"), read("/proc/uptime") != "") == ("", True)
    options = {words[1]: words[3].split(",")[0] for words in map(str.split, read("/proc/mounts").splitlines())}
    assert (options["/sys"], options["/sys/fs/bpf"]) == ("ro", "rw")
