"""What is kept of an object: nothing that could hold a secret, everything that a question needs."""

from __future__ import annotations

import json

import pytest

from kubectl_netpol.cluster.trim import trim

SECRET = "hunter2"


def container(name="main"):
    return {
        "name": name,
        "image": SECRET,
        "command": ["sh", "-c", SECRET],
        "args": [SECRET],
        "env": [{"name": "PASSWORD", "value": SECRET}],
        "envFrom": [{"secretRef": {"name": SECRET}}],
        "volumeMounts": [{"mountPath": SECRET}],
        "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
        "livenessProbe": {"exec": {"command": [SECRET]}},
    }


METADATA = {
    "name": "web-1",
    "namespace": "shop",
    "uid": "u-1",
    "labels": {"app": "web"},
    "creationTimestamp": "2026-01-01T00:00:00Z",
    "resourceVersion": SECRET,
    "selfLink": SECRET,
    "managedFields": [{"manager": SECRET}],
    "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": SECRET,
        "vpc.amazonaws.com/pod-ips": "10.0.0.5",
        "networking.k8s.aws/last-change-trigger-time": "2026-01-01T00:00:00Z",
    },
    "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "u-2", "controller": True, "apiVersion": SECRET}],
}
POD = {
    "metadata": METADATA,
    "spec": {
        "nodeName": "node-a",
        "hostNetwork": True,
        "containers": [container()],
        "initContainers": [container("init")],
        "ephemeralContainers": [container("debug")],
        "volumes": [{"secret": {"secretName": SECRET}}],
        "serviceAccountName": SECRET,
        "imagePullSecrets": [{"name": SECRET}],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.5",
        "podIPs": [{"ip": "10.0.0.5"}],
        "hostIP": "10.0.0.1",
        "containerStatuses": [{"image": SECRET}],
        "message": SECRET,
    },
}
NODE = {
    "metadata": METADATA,
    "spec": {"providerID": SECRET, "podCIDR": SECRET},
    "status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {"kernelVersion": "6.1", "machineID": SECRET, "systemUUID": SECRET, "bootID": SECRET},
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "message": SECRET}],
        "images": [{"names": [SECRET]}],
        "volumesAttached": [{"name": SECRET}],
    },
}
SERVICE = {
    "metadata": METADATA,
    "spec": {
        "clusterIP": "10.100.0.1",
        "clusterIPs": ["10.100.0.1"],
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": "http"}],
        "type": "ClusterIP",
        "loadBalancerSourceRanges": [SECRET],
    },
    "status": {"loadBalancer": {"ingress": [{"hostname": SECRET}]}},
}
NAMESPACE = {"metadata": METADATA, "spec": {"finalizers": [SECRET]}, "status": {"phase": SECRET}}
POLICY = {"metadata": METADATA, "spec": {"podSelector": {}}, "status": {"conditions": []}, "data": SECRET}


@pytest.mark.parametrize(
    ("kind", "obj"),
    [
        ("pods", POD),
        ("nodes", NODE),
        ("services", SERVICE),
        ("namespaces", NAMESPACE),
        ("networkpolicies", POLICY),
        ("policyendpoints", POLICY),
        ("clusterpolicyendpoints", POLICY),
    ],
)
def test_no_secret_survives(kind, obj):
    before = json.dumps(obj)
    assert SECRET not in json.dumps(trim(kind, obj))
    assert json.dumps(obj) == before, "the object itself is left alone"


def test_a_pod_keeps_what_questions_need():
    assert trim("pods", POD) == {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "uid": "u-1",
            "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "u-2", "controller": True}],
            "annotations": {
                "vpc.amazonaws.com/pod-ips": "10.0.0.5",
                "networking.k8s.aws/last-change-trigger-time": "2026-01-01T00:00:00Z",
            },
        },
        "spec": {
            "nodeName": "node-a",
            "hostNetwork": True,
            "containers": [
                {"name": "main", "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]},
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.5",
            "podIPs": [{"ip": "10.0.0.5"}],
            "hostIP": "10.0.0.1",
        },
    }


def test_services_and_nodes_keep_what_questions_need():
    assert trim("services", SERVICE)["spec"] == {
        "type": "ClusterIP",
        "clusterIP": "10.100.0.1",
        "clusterIPs": ["10.100.0.1"],
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": "http"}],
    }
    assert trim("nodes", NODE)["status"] == {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {"kernelVersion": "6.1"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }


def test_policies_keep_their_whole_spec_and_status():
    found = trim("networkpolicies", POLICY)
    assert (found["spec"], found["status"]) == ({"podSelector": {}}, {"conditions": []})
    assert trim("networkpolicies", {"metadata": {"name": "x"}}) == {"metadata": {"name": "x"}, "spec": {}}


@pytest.mark.parametrize("kind", ["pods", "nodes", "services", "namespaces", "networkpolicies"])
def test_trimming_twice_changes_nothing_and_missing_parts_are_no_crash(kind):
    obj = {"pods": POD, "nodes": NODE, "services": SERVICE}.get(kind, POLICY)
    once = trim(kind, obj)
    assert trim(kind, once) == once
    assert trim(kind, {})["metadata"] == {}
    assert trim(kind, {"metadata": None, "spec": None, "status": None})["metadata"] == {}


def test_of_a_pods_conditions_only_whether_it_is_ready_is_kept():
    when = "2026-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": when}
    pod = {"metadata": {}, "status": {"conditions": [{"type": "PodScheduled"}, {**ready, "message": SECRET}]}}
    assert trim("pods", pod)["status"] == {"conditions": [ready]}
