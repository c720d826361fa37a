"""YAML and JSON of `-f`: any text is policies or one clear refusal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest.mock import patch

import yaml

from kubectl_netpol.errors import UsageError
from kubectl_netpol.manifests import read_policies
from kubectl_netpol.yaml_text import TextError, documents
from tests.fuzz import mutation
from tests.fuzz.target import Target
from tests.unit import builders, test_manifests

GOLDEN = Path(__file__).parents[2] / "golden" / "policy.yaml"
ODD = """\
a: &a [1, 0x1F, 010, 1_000, 1e3, .5, .inf, -.inf, .NaN, ~, yes, 1:30, 2026-01-02]
b: [*a, *a, *a]
<<: {c: 1}
"q\\x1b": !!str 5
? [k]
: !!binary aGk=
d: !!set {x, y}
e: !!python/object/apply:os.system [id]
f: !local {x: 1}
g: |
  block
h: "\\ud800"
"""
ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
RULES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, labels: {a: b}}
spec:
  podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    - namespaceSelector: {}
      podSelector: {matchLabels: {role: front}}
    ports: [{protocol: TCP, port: 80, endPort: 90}, {port: http}]
  egress:
  - to: [{ipBlock: {cidr: "2001:db8::/32"}}]
"""
CLUSTER = """\
apiVersion: networking.k8s.aws/v1alpha1
kind: ClusterNetworkPolicy
metadata: {name: deny-all}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {matchLabels: {a: b}}}
  ingress:
  - {name: x, action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {port: 80, protocol: TCP}}]}
  egress:
  - {action: Accept, to: [{networks: [10.0.0.0/8]}, {domainNames: ["*.example.com"]}]}
"""


@cache
def texts() -> tuple[bytes, ...]:
    policies = [builders.ACCESS_NGINX, builders.policy("e", egress=[{"to": [{"ipBlock": {"cidr": "::/0"}}]}])]
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    as_list = {"apiVersion": "v1", "kind": "List", "items": [{**head, **policy} for policy in policies]}
    found = (
        *(GOLDEN.read_text(), test_manifests.POLICY, test_manifests.CLUSTER, ODD, ALIASES, RULES, CLUSTER),
        *(
            json.dumps(as_list),
            yaml.safe_dump(as_list),
            f"{RULES}---\n{CLUSTER}---\n",
            json.dumps(as_list, indent=1) * 2,
        ),
    )
    return tuple(text.encode() for text in found)


def read_yaml(data: bytes) -> str:
    return repr(documents(data.decode("utf-8", "replace")))


def read_manifest(data: bytes) -> str:
    with stdin(data):
        return repr(read_policies(["-"], "shop"))


@contextmanager
def stdin(data: bytes) -> Iterator[None]:
    with patch("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)):
        yield


def other_text(data: bytes, random: Random) -> bytes:
    """Also the values of a YAML text, written anew."""
    if random.random() < 0.4:
        try:
            found = yaml.safe_load(data)
            if isinstance(found, (dict, list)):
                changed = mutation.of_json(found, random)
                return json.dumps(changed).encode() if random.random() < 0.5 else yaml.dump(changed).encode()
        except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, OverflowError):
            pass
    return mutation.text_input(data, random)


TARGETS = (
    Target("yaml", read_yaml, texts, mutation.text_input, (TextError,), short=250, long=60_000),
    Target("manifest", read_manifest, texts, other_text, (UsageError,), short=200, long=40_000),
)
