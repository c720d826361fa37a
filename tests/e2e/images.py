"""The images and programs of these tests: all are named here, and each can be replaced by an environment variable."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kubectl_netpol.node import debug_pod


@dataclass(frozen=True)
class Named:
    variable: str
    default: str
    purpose: str

    @property
    def value(self) -> str:
        return os.environ.get(self.variable) or self.default


NODE = Named("NETPOL_E2E_NODE_IMAGE", "kindest/node:v1.34.0", "the cluster's node; --kind-image comes before it")
DEBUG = Named("NETPOL_E2E_DEBUG_IMAGE", debug_pod.IMAGE, "the debug pod; has python3")
PLAIN = Named("NETPOL_E2E_PLAIN_IMAGE", "busybox:1.37", "clients, and a debug pod without python3; has wget and sleep")
WEB = Named("NETPOL_E2E_WEB_IMAGE", "nginx:1.29", "a web server on port 80")
KIND = Named("NETPOL_E2E_KIND", "kind", "the kind program, on PATH or with its path; --kind-bin comes before it")

OF_PODS = (DEBUG, PLAIN, WEB)
ALL = (NODE, *OF_PODS, KIND)
