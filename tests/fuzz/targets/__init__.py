"""All targets, by name."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import api, bundles, manifests, netlink, node, stream, texts, verbs

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (node, netlink, texts, manifests, api, stream, bundles, verbs)
    for target in module.TARGETS
}
