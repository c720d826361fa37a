"""Writes the kernel's own answers to the reader's netlink requests into ``recorded``: seeds of the target `netlink`.

Run as root in a network namespace of its own: `unshare -n python -m tests.fuzz.record`.
"""

from __future__ import annotations

import subprocess
from typing import Any
from unittest.mock import patch

from kubectl_netpol.node import reader
from tests.fuzz.targets.netlink import RECORDED

SETUP = (
    "ip link set lo up",
    "ip link add eni5ba2b8d9bd3 type veth peer name eth0",
    "ip addr add 10.0.0.1/16 dev eth0",
    "ip addr add 2001:db8::1/64 dev eth0 nodad",
    "ip link set eth0 up",
    "ip link set eni5ba2b8d9bd3 up",
    "ip route add 10.0.4.5 dev eni5ba2b8d9bd3",
    "ip route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.0.0.3",
    "tc qdisc add dev eni5ba2b8d9bd3 clsact",
    "tc filter add dev eni5ba2b8d9bd3 ingress protocol ip bpf bytecode 1,6_0_0_0",
)


def main() -> None:
    for line in SETUP:
        subprocess.run([word.replace("_", " ") for word in line.split()], check=True)
    real, found = reader.messages, []

    def heard(data: bytes) -> Any:
        found.append(data)
        return real(data)

    index = next(row["ifindex"] for row in reader.read_links() if row["name"].startswith("eni"))
    calls: dict[str, Any] = {
        "links": reader.read_links,
        "addresses": reader.read_addresses,
        "routes": lambda: reader.read_routes(set()),
        "qdiscs": reader.read_qdiscs,
        "filters": lambda: reader.read_filters(index, "ingress", reader.TC_H_INGRESS),
    }
    RECORDED.mkdir(exist_ok=True)
    with patch.object(reader, "messages", heard):
        for name, call in calls.items():
            found.clear()
            call()
            for number, data in enumerate(found):
                (RECORDED / f"{name}-{number}.netlink").write_bytes(data)


if __name__ == "__main__":
    main()
