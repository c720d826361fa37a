"""A cluster that is never at rest: whatever is told of it, nothing is told to be a fault that is none.

A policy gets and loses blocks all the time, each of them used once; controller and agent follow. Now and then the
agent loads new programs and maps for the pod, pins and attaches them, as an upgrade does.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from kubectl_netpol import checking, looking, verbs
from kubectl_netpol.checking import Asked
from kubectl_netpol.diagnose.plan import Question
from kubectl_netpol.model.finding import Severity
from kubectl_netpol.report.output import Format
from tests.faults import world
from tests.lab.article import NGINX, NODE
from tests.lab.breakage import DIRECTIONS, HOOKS
from tests.lab.cluster import LabCluster
from tests.lab.require import require_lab, require_tools

Json = dict[str, Any]
WINDOW, CHECKS, EXPLAINS = 6, 6, 4


class Churn:
    """Steps until the block is left; ``lag``: seconds between what the API and what the agent does."""

    def __init__(self, lab: LabCluster) -> None:
        self.lab, self.steps = lab, 0
        self.chosen = random.Random(11)
        self.failures: list[BaseException] = []

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        done = threading.Event()

        def run() -> None:
            try:
                while not done.is_set():
                    self.step()
                    time.sleep(self.chosen.choice((0.02, 0.05, 0.1, 0.2)))
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        assert not self.failures, self.failures

    def step(self) -> None:
        self.steps += 1
        self.lab.server.put(policy(self.steps))
        if self.steps % 7 == 0:
            self.upgrade()

    def upgrade(self) -> None:
        agent, lab = self.lab.agents[NODE], self.lab
        with lab._lock:
            identifier, index = agent.identifier("default", NGINX), agent._host_index("default", NGINX, 0)
            agent._load(identifier)
            for direction in DIRECTIONS:
                with agent.open_pin(agent.program_pin(identifier, direction)) as program:
                    lab.nodes[NODE]._netlink.delete_filter(index, HOOKS[direction])
                    lab.nodes[NODE]._netlink.add_bpf_filter(index, HOOKS[direction], program, f"handle_{direction}")
            agent._first_state(identifier, "default")


def policy(step: int) -> Json:
    first = int(ipaddress.ip_address("10.50.0.0"))
    blocks = [{"ipBlock": {"cidr": f"{ipaddress.ip_address(first + step + n)}/32"}} for n in range(WINDOW)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "moving", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "nginx"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": blocks}],
        },
    }


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCluster]:
    require_lab()
    require_tools("kubectl", "tc")
    with world.healthy() as made:
        yield made
        assert not made.server.errors


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """More looks in the same time; the churn is as fast."""
    monkeypatch.setattr(looking, "PAUSE_SECONDS", 0.3)


def answer(run: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, Json]:
    capsys.readouterr()
    with pytest.raises(checking.typer.Exit) as ended:
        run()
    return ended.value.exit_code, json.loads(capsys.readouterr().out)


def test_check_of_a_cluster_that_is_never_at_rest(lab: LabCluster, capsys: pytest.CaptureFixture[str]) -> None:
    common, churn = replace(world.common(lab), output=Format.JSON), Churn(lab)
    churn.step()
    found: list[Json] = []
    with churn.going():
        for _ in range(CHECKS):
            code, data = answer(lambda: checking.check(common, Asked(all_namespaces=True)), capsys)
            errors = [one for one in data["findings"] if one["severity"] in (Severity.ERROR, Severity.WARNING)]
            assert errors == [], data["inProgress"]
            # Something may not have been to be told; nothing is wrong.
            assert code in (0, 3) and (code == 0 or data["unread"])
            found.append(data)
    assert churn.steps > CHECKS
    assert any(data["inProgress"] for data in found), "the churn was not felt"
    # At rest it is clean.
    lab.settle()
    code, data = answer(lambda: checking.check(common, Asked(all_namespaces=True)), capsys)
    assert (code, data["findings"], data["unread"], data["inProgress"]) == (0, [], [], [])


def test_explain_of_a_pod_that_is_never_at_rest(lab: LabCluster, capsys: pytest.CaptureFixture[str]) -> None:
    common, churn = replace(world.common(lab), output=Format.JSON), Churn(lab)
    churn.step()
    with churn.going():
        for number in range(EXPLAINS):
            asked = Question("pod/nginx") if number % 2 else Question("pod/nginx", source="pod/accesstrue", port="80")
            code, data = answer(lambda asked=asked: verbs.explain(common, asked), capsys)
            assert [one for one in data["findings"] if one["severity"] == "error"] == [], data["inProgress"]
            assert data["layersAgree"] is not False, data["answer"]
            assert code in (0, 3), data["answer"]
