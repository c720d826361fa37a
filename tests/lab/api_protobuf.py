"""Kubernetes protobuf, one way: kubectl sends some objects (`create deploy`, `debug node`) in no other form.

The table holds the wire numbers of the fields that kubectl's own commands use. Answers are always JSON, which
clients that ask for protobuf take as well.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from .api_errors import ApiError

MAGIC = b"k8s\x00"

# message: number name type, ... ; `*` is a list, `{` a map from strings, continuation lines are indented.
_MESSAGES = """
AppArmorProfile: 1 type str, 2 localhostProfile str
Capabilities: 1 add *str, 2 drop *str
ConfigMap: 1 metadata ObjectMeta, 2 data {str, 3 binaryData {bytes, 4 immutable bool
ConfigMapEnvSource: 1 localObjectReference LocalObjectReference, 2 optional bool
ConfigMapKeySelector: 1 localObjectReference LocalObjectReference, 2 key str, 3 optional bool
ConfigMapProjection: 1 localObjectReference LocalObjectReference, 2 items *KeyToPath, 4 optional bool
ConfigMapVolumeSource: 1 localObjectReference LocalObjectReference, 2 items *KeyToPath, 3 defaultMode
  int, 4 optional bool
Container: 1 name str, 2 image str, 3 command *str, 4 args *str, 5 workingDir str, 6 ports
  *ContainerPort, 7 env *EnvVar, 8 resources ResourceRequirements, 9 volumeMounts *VolumeMount, 13
  terminationMessagePath str, 14 imagePullPolicy str, 15 securityContext SecurityContext, 16 stdin bool,
  17 stdinOnce bool, 18 tty bool, 19 envFrom *EnvFromSource, 20 terminationMessagePolicy str, 21
  volumeDevices *VolumeDevice, 23 resizePolicy *ContainerResizePolicy, 24 restartPolicy str
ContainerPort: 1 name str, 2 hostPort int, 3 containerPort int, 4 protocol str, 5 hostIP str
ContainerResizePolicy: 1 resourceName str, 2 restartPolicy str
DaemonSet: 1 metadata ObjectMeta, 2 spec DaemonSetSpec
DaemonSetSpec: 1 selector LabelSelector, 2 template PodTemplateSpec, 3 updateStrategy
  DaemonSetUpdateStrategy, 4 minReadySeconds int, 6 revisionHistoryLimit int
DaemonSetUpdateStrategy: 1 type str, 2 rollingUpdate RollingUpdateDaemonSet
DeleteOptions: 1 gracePeriodSeconds int, 2 preconditions Preconditions, 3 orphanDependents bool, 4
  propagationPolicy str, 5 dryRun *str, 6 ignoreStoreReadErrorWithClusterBreakingPotential bool
Deployment: 1 metadata ObjectMeta, 2 spec DeploymentSpec
DeploymentSpec: 1 replicas int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 strategy
  DeploymentStrategy, 5 minReadySeconds int, 6 revisionHistoryLimit int, 7 paused bool, 9
  progressDeadlineSeconds int
DeploymentStrategy: 1 type str, 2 rollingUpdate RollingUpdateDeployment
DownwardAPIProjection: 1 items *DownwardAPIVolumeFile
DownwardAPIVolumeFile: 1 path str, 2 fieldRef ObjectFieldSelector, 3 resourceFieldRef
  ResourceFieldSelector, 4 mode int
DownwardAPIVolumeSource: 1 items *DownwardAPIVolumeFile, 2 defaultMode int
EmptyDirVolumeSource: 1 medium str, 2 sizeLimit Quantity
EnvFromSource: 1 prefix str, 2 configMapRef ConfigMapEnvSource, 3 secretRef SecretEnvSource
EnvVar: 1 name str, 2 value str, 3 valueFrom EnvVarSource
EnvVarSource: 1 fieldRef ObjectFieldSelector, 2 resourceFieldRef ResourceFieldSelector, 3
  configMapKeyRef ConfigMapKeySelector, 4 secretKeyRef SecretKeySelector
Eviction: 1 metadata ObjectMeta, 2 deleteOptions DeleteOptions
HostPathVolumeSource: 1 path str, 2 type str
IPBlock: 1 cidr str, 2 except *str
Job: 1 metadata ObjectMeta, 2 spec JobSpec
JobSpec: 1 parallelism int, 2 completions int, 3 activeDeadlineSeconds int, 4 selector LabelSelector, 5
  manualSelector bool, 6 template PodTemplateSpec, 7 backoffLimit int, 8 ttlSecondsAfterFinished int, 9
  completionMode str, 10 suspend bool, 12 backoffLimitPerIndex int, 13 maxFailedIndexes int, 14
  podReplacementPolicy str, 15 managedBy str
KeyToPath: 1 key str, 2 path str, 3 mode int
LabelSelector: 1 matchLabels {str, 2 matchExpressions *LabelSelectorRequirement
LabelSelectorRequirement: 1 key str, 2 operator str, 3 values *str
LocalObjectReference: 1 name str
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec
NamespaceSpec: 1 finalizers *str
NetworkPolicy: 1 metadata ObjectMeta, 2 spec NetworkPolicySpec
NetworkPolicyEgressRule: 1 ports *NetworkPolicyPort, 2 to *NetworkPolicyPeer
NetworkPolicyIngressRule: 1 ports *NetworkPolicyPort, 2 from *NetworkPolicyPeer
NetworkPolicyPeer: 1 podSelector LabelSelector, 2 namespaceSelector LabelSelector, 3 ipBlock IPBlock
NetworkPolicyPort: 1 protocol str, 2 port IntOrString, 3 endPort int
NetworkPolicySpec: 1 podSelector LabelSelector, 2 ingress *NetworkPolicyIngressRule, 3 egress
  *NetworkPolicyEgressRule, 4 policyTypes *str
Node: 1 metadata ObjectMeta, 2 spec NodeSpec
NodeSpec: 1 podCIDR str, 2 externalID str, 3 providerID str, 4 unschedulable bool, 5 taints *Taint, 7
  podCIDRs *str
NonResourceAttributes: 1 path str, 2 verb str
ObjectFieldSelector: 1 apiVersion str, 2 fieldPath str
ObjectMeta: 1 name str, 2 generateName str, 3 namespace str, 4 selfLink str, 5 uid str, 6
  resourceVersion str, 7 generation int, 8 creationTimestamp Time, 9 deletionTimestamp Time, 10
  deletionGracePeriodSeconds int, 11 labels {str, 12 annotations {str, 13 ownerReferences
  *OwnerReference, 14 finalizers *str
ObjectReference: 1 kind str, 2 namespace str, 3 name str, 4 uid str, 5 apiVersion str, 6 resourceVersion
  str, 7 fieldPath str
OwnerReference: 1 kind str, 3 name str, 4 uid str, 5 apiVersion str, 6 controller bool, 7
  blockOwnerDeletion bool
Pod: 1 metadata ObjectMeta, 2 spec PodSpec
PodOS: 1 name str
PodReadinessGate: 1 conditionType str
PodSchedulingGate: 1 name str
PodSecurityContext: 1 seLinuxOptions SELinuxOptions, 2 runAsUser int, 3 runAsNonRoot bool, 4
  supplementalGroups *int, 5 fsGroup int, 6 runAsGroup int, 7 sysctls *Sysctl, 9 fsGroupChangePolicy
  str, 10 seccompProfile SeccompProfile, 11 appArmorProfile AppArmorProfile, 12 supplementalGroupsPolicy
  str, 13 seLinuxChangePolicy str
PodSpec: 1 volumes *Volume, 2 containers *Container, 3 restartPolicy str, 4
  terminationGracePeriodSeconds int, 5 activeDeadlineSeconds int, 6 dnsPolicy str, 7 nodeSelector {str,
  8 serviceAccountName str, 9 serviceAccount str, 10 nodeName str, 11 hostNetwork bool, 12 hostPID bool,
  13 hostIPC bool, 14 securityContext PodSecurityContext, 15 imagePullSecrets *LocalObjectReference, 16
  hostname str, 17 subdomain str, 19 schedulerName str, 20 initContainers *Container, 21
  automountServiceAccountToken bool, 22 tolerations *Toleration, 24 priorityClassName str, 25 priority
  int, 27 shareProcessNamespace bool, 28 readinessGates *PodReadinessGate, 29 runtimeClassName str, 30
  enableServiceLinks bool, 31 preemptionPolicy str, 32 overhead {Quantity, 35 setHostnameAsFQDN bool, 36
  os PodOS, 37 hostUsers bool, 38 schedulingGates *PodSchedulingGate, 40 resources ResourceRequirements
PodTemplateSpec: 1 metadata ObjectMeta, 2 spec PodSpec
Preconditions: 1 uid str, 2 resourceVersion str
ProjectedVolumeSource: 1 sources *VolumeProjection, 2 defaultMode int
ReplicaSet: 1 metadata ObjectMeta, 2 spec ReplicaSetSpec
ReplicaSetSpec: 1 replicas int, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 minReadySeconds
  int
ResourceAttributes: 1 namespace str, 2 verb str, 3 group str, 4 version str, 5 resource str, 6
  subresource str, 7 name str
ResourceFieldSelector: 1 containerName str, 2 resource str, 3 divisor Quantity
ResourceQuota: 1 metadata ObjectMeta, 2 spec ResourceQuotaSpec
ResourceQuotaSpec: 1 hard {Quantity, 2 scopes *str
ResourceRequirements: 1 limits {Quantity, 2 requests {Quantity
RollingUpdateDaemonSet: 1 maxUnavailable IntOrString, 2 maxSurge IntOrString
RollingUpdateDeployment: 1 maxUnavailable IntOrString, 2 maxSurge IntOrString
RollingUpdateStatefulSetStrategy: 1 partition int, 2 maxUnavailable IntOrString
SELinuxOptions: 1 user str, 2 role str, 3 type str, 4 level str
Scale: 1 metadata ObjectMeta, 2 spec ScaleSpec
ScaleSpec: 1 replicas int
SeccompProfile: 1 type str, 2 localhostProfile str
Secret: 1 metadata ObjectMeta, 2 data {bytes, 3 type str, 4 stringData {str, 5 immutable bool
SecretEnvSource: 1 localObjectReference LocalObjectReference, 2 optional bool
SecretKeySelector: 1 localObjectReference LocalObjectReference, 2 key str, 3 optional bool
SecretProjection: 1 localObjectReference LocalObjectReference, 2 items *KeyToPath, 4 optional bool
SecretVolumeSource: 1 secretName str, 2 items *KeyToPath, 3 defaultMode int, 4 optional bool
SecurityContext: 1 capabilities Capabilities, 2 privileged bool, 3 seLinuxOptions SELinuxOptions, 4
  runAsUser int, 5 runAsNonRoot bool, 6 readOnlyRootFilesystem bool, 7 allowPrivilegeEscalation bool, 8
  runAsGroup int, 9 procMount str, 11 seccompProfile SeccompProfile, 12 appArmorProfile AppArmorProfile
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec
SelfSubjectAccessReviewSpec: 1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes
  NonResourceAttributes
SelfSubjectRulesReview: 1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec
SelfSubjectRulesReviewSpec: 1 namespace str
Service: 1 metadata ObjectMeta, 2 spec ServiceSpec
ServiceAccount: 1 metadata ObjectMeta, 2 secrets *ObjectReference, 3 imagePullSecrets
  *LocalObjectReference, 4 automountServiceAccountToken bool
ServiceAccountTokenProjection: 1 audience str, 2 expirationSeconds int, 3 path str
ServicePort: 1 name str, 2 protocol str, 3 port int, 4 targetPort IntOrString, 5 nodePort int, 6
  appProtocol str
ServiceSpec: 1 ports *ServicePort, 2 selector {str, 3 clusterIP str, 4 type str, 5 externalIPs *str, 7
  sessionAffinity str, 8 loadBalancerIP str, 9 loadBalancerSourceRanges *str, 10 externalName str, 11
  externalTrafficPolicy str, 12 healthCheckNodePort int, 13 publishNotReadyAddresses bool, 17
  ipFamilyPolicy str, 18 clusterIPs *str, 19 ipFamilies *str, 20 allocateLoadBalancerNodePorts bool, 21
  loadBalancerClass str, 22 internalTrafficPolicy str, 23 trafficDistribution str
StatefulSet: 1 metadata ObjectMeta, 2 spec StatefulSetSpec
StatefulSetSpec: 1 replicas int, 2 selector LabelSelector, 3 template PodTemplateSpec, 5 serviceName
  str, 6 podManagementPolicy str, 7 updateStrategy StatefulSetUpdateStrategy, 8 revisionHistoryLimit
  int, 9 minReadySeconds int
StatefulSetUpdateStrategy: 1 type str, 2 rollingUpdate RollingUpdateStatefulSetStrategy
Sysctl: 1 name str, 2 value str
Taint: 1 key str, 2 value str, 3 effect str, 4 timeAdded Time
Toleration: 1 key str, 2 operator str, 3 value str, 4 effect str, 5 tolerationSeconds int
Volume: 1 name str, 2 volumeSource VolumeSource
VolumeDevice: 1 name str, 2 devicePath str
VolumeMount: 1 name str, 2 readOnly bool, 3 mountPath str, 4 subPath str, 5 mountPropagation str, 6
  subPathExpr str, 7 recursiveReadOnly str
VolumeProjection: 1 secret SecretProjection, 2 downwardAPI DownwardAPIProjection, 3 configMap
  ConfigMapProjection, 4 serviceAccountToken ServiceAccountTokenProjection
VolumeSource: 1 hostPath HostPathVolumeSource, 2 emptyDir EmptyDirVolumeSource, 6 secret
  SecretVolumeSource, 16 downwardAPI DownwardAPIVolumeSource, 19 configMap ConfigMapVolumeSource, 26
  projected ProjectedVolumeSource
"""

# Go structs that are part of their parent in JSON.
_INLINE = {"volumeSource", "localObjectReference"}
# Zero says something only where Go has a pointer; plain fields are always on the wire.
_POINTERS = {
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "suspend",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
}
_EMPTY_IS_NOTHING = {"resources", "strategy", "updateStrategy", "creationTimestamp", "securityContext"}


class _Field(NamedTuple):
    name: str
    type: str
    many: bool
    map: bool


@cache
def _tables() -> dict[str, dict[int, _Field]]:
    tables = {}
    for line in _MESSAGES.strip().replace("\n  ", " ").splitlines():
        message, _, text = line.partition(":")
        fields = {}
        for entry in filter(None, text.strip().split(", ")):
            number, name, kind = entry.split()
            fields[int(number)] = _Field(name, kind.lstrip("*{"), kind[0] == "*", kind[0] == "{")
        tables[message] = fields
    return tables


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _wire(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            size, at = _varint(data, at)
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {tag & 7}")


def _scalar(kind: str, raw: Any) -> Any:
    if kind == "str":
        return raw.decode()
    if kind == "bool":
        return bool(raw)
    if kind == "int":
        return raw - (1 << 64) if raw >> 63 else raw
    return base64.b64encode(raw).decode()


def _special(kind: str, raw: bytes) -> Any:
    """Messages that are a single value in JSON."""
    fields = dict(_wire(raw))
    if kind == "Quantity":
        return fields.get(1, b"").decode()
    if kind == "IntOrString":
        return fields.get(3, b"").decode() if fields.get(1) else _scalar("int", fields.get(2, 0))
    seconds = _scalar("int", fields.get(1, 0))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if fields else {}


def _value(kind: str, raw: Any) -> Any:
    if kind in ("str", "bool", "int", "bytes"):
        return _scalar(kind, raw)
    if kind in ("Quantity", "IntOrString", "Time", "MicroTime"):
        return _special(kind, raw)
    return _message(kind, raw)


def _message(kind: str, data: bytes) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for number, raw in _wire(data):
        field = _tables()[kind].get(number)
        if field is None:
            # Field 3 is the status, which a create does not take; the rarer parts of a spec are left out
            # above.
            if raw and number != 3:
                raise ApiError(415, f"protobuf: the stand-in does not know field {number} of {kind}")
            continue
        if field.map:
            entry = dict(_wire(raw))
            result.setdefault(field.name, {})[entry[1].decode()] = _value(field.type, entry.get(2, b""))
        elif field.many:
            result.setdefault(field.name, []).append(_value(field.type, raw))
        else:
            _set(result, field, _value(field.type, raw))
    return result


def _set(result: dict[str, Any], field: _Field, value: Any) -> None:
    if field.name in _INLINE:
        result.update(value)
    elif not (
        value == ""
        or (value in (0, False) and field.type in ("int", "bool") and field.name not in _POINTERS)
        or (value == {} and field.name in _EMPTY_IS_NOTHING)
    ):
        result[field.name] = value


def decode(data: bytes) -> dict[str, Any]:
    """The object in a Kubernetes protobuf envelope."""
    try:
        if not data.startswith(MAGIC):
            raise ValueError("no envelope")
        envelope = dict(_wire(data[len(MAGIC) :]))
        meta = dict(_wire(envelope[1]))
        kind = meta[2].decode()
        return {"kind": kind, "apiVersion": meta[1].decode()} | _message(kind, envelope.get(2, b""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ApiError(415, f"the body of the request was in an unknown format: protobuf: {error}") from None
