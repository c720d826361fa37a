"""The verb `version`: this plugin, and with a cluster its server, the VPC CNI and its agent."""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubectl_netpol import __version__
from kubectl_netpol.cluster.connection import may_connect
from kubectl_netpol.cluster.parallel import WAKE_SECONDS, Pool
from kubectl_netpol.errors import ApiError, ConnectionFailed, NetpolError, UsageError
from kubectl_netpol.model.version import Client, Cluster, Image
from kubectl_netpol.options import Common
from kubectl_netpol.progress import Progress
from kubectl_netpol.report import version as report
from kubectl_netpol.report.output import emit

if TYPE_CHECKING:
    from kubectl_netpol.cluster.api import Api
    from kubectl_netpol.cluster.connection import ConnectionFlags

Json = dict[str, Any]

SECONDS = 3.0
"""For one request, where --request-timeout does not say otherwise: nobody waits long for a version."""
SPARE_SECONDS = 1.0
"""What a request may take more, so that its own time limit is the first to be told."""


def version(common: Common, client_only: bool) -> None:
    """`version`. What cannot be read of the cluster is a line on stderr, and unknown on stdout.

    Raises ``UsageError`` where flags name a context, cluster, user or file that does not exist.
    """
    from kubectl_netpol.bundle import FORMAT, FORMATS
    from kubectl_netpol.node.reader import READER_VERSION

    client = Client(__version__, FORMAT, FORMATS, READER_VERSION, platform.python_version())
    progress = Progress()
    cluster = None
    try:
        if not client_only and may_connect(common.connection):
            cluster = _cluster(common.connection, progress)
        elif not client_only:
            progress.note("note: no kubeconfig: the versions of a cluster are not known (--client asks for none)")
        progress.done()
        for reason in cluster.unread if cluster else ():
            progress.note(f"warning: {reason}")
        emit(
            sys.stdout,
            common.output,
            lambda: report.as_data(client, cluster),
            lambda wide: report.as_text(client, cluster, wide),
        )
    finally:
        progress.done()


def _cluster(flags: ConnectionFlags, progress: Progress) -> Cluster:
    from kubectl_netpol.cluster.api import Api
    from kubectl_netpol.cluster.connection import connect

    progress.step("connecting")
    try:
        api = Api(connect(replace(flags, request_timeout=flags.request_timeout or SECONDS)))
        progress.step("reading versions")
        server = _text(_get(api, "/version"), "gitVersion")
    except UsageError as error:
        if flags.kubeconfig or flags.context or flags.cluster or flags.user or flags.as_groups or flags.as_uid:
            raise
        return Cluster(unread=(f"the cluster's versions are not known: {error.message}",))
    except NetpolError as error:
        return Cluster(unread=(f"the cluster's versions are not known: {error.message}",))
    return _with_cni(Cluster(server), api)


def _get(api: Api, path: str) -> Json:
    """With an end for all of it: the time limit of a request is one for each piece of its answer, and a server that
    says "later" is asked again. Raises as ``Api.get``, and ``ConnectionFailed`` at the end."""
    seconds = api.connection.request_timeout
    until = time.monotonic() + seconds + SPARE_SECONDS
    with Pool(api.get, 1) as pool:
        asked = pool.submit(path)
        while time.monotonic() < until:
            if wait([asked], WAKE_SECONDS).done:
                return asked.result()
    raise ConnectionFailed(f"no whole answer from {api.host} to GET {path} in {seconds:g} s")


def _with_cni(cluster: Cluster, api: Api) -> Cluster:
    """By the images of the DaemonSet, which is the one object that the plugin reads of it."""
    from kubectl_netpol.cluster.settings import AWS_NODE

    try:
        found = _get(api, AWS_NODE)
        containers = {str(one.get("name")): one for one in found["spec"]["template"]["spec"]["containers"]}
        status = found.get("status") or {}
        return replace(
            cluster,
            installed=True,
            cni=_image(containers.get("aws-node")),
            agent=_image(containers.get("aws-eks-nodeagent")),
            updated=_count(status.get("updatedNumberScheduled", 0)),
            scheduled=_count(status.get("desiredNumberScheduled", 0)),
        )
    except ApiError as error:
        if error.status == 404:
            return replace(cluster, installed=False)
        reason = error.message
    except NetpolError as error:
        reason = error.message
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"the DaemonSet aws-node does not have the shape of its kind ({type(error).__name__}: {error})"
    return replace(cluster, unread=(f"the versions of the VPC CNI are not known: {reason}",))


def _image(container: Json | None) -> Image | None:
    from kubectl_netpol.policy.cni import image_tag, image_version

    if container is None:
        return None
    return Image(image_tag(container) if image_version(container) else "", _text(container, "image"))


def _text(found: Json, name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
