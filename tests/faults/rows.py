"""What users report (`P1` to `P29`) and how the datapath fails (`A1` to `A87`), as far as no fault stands for it.

What leaves the same state behind, what another verb tells, and what cannot be made here, with the reason.
"""

from __future__ import annotations

ALL = {
    *(f"P{number}" for number in range(1, 30)),
    *(f"A{number}" for number in range(1, 88)),
    "A80a",
}

SAME_STATE = {
    "A21": ("NPE402", "security groups for pods with agents up to 1.1.6: no filter is on the pod's veth"),
    "A24": ("NPE402", "the agent's memory of what is attached confuses two pods: one of them has no filter"),
    "A34": ("NPE302", "entries of cluster policies in the rule map: no PolicyEndpoint asks for them"),
    "A40": ("NPE402", "agents up to 1.0.2 find no pod of an IPv6 node: nothing is attached"),
    "A52": ("NPE301", "one of several PolicyEndpoints is deleted and the rules of the others go with it"),
    "A53": ("NPE301", "two policies of one name in two namespaces: the rules of one are cleaned up"),
    "A56": ("NPE301", "agents up to 1.1.2 let a pod's entry not inherit the block's ports: slots are missing"),
    "A58": ("NPE303", "agents 1.0.5 to 1.2.3 let an address in an except inherit: slots that no rule asks for"),
    "A60": ("NPE303", "a rule without protocol is written as TCP by agents up to 1.2.3"),
    "A61": ("NPE303", "a named range is written with protocol ANY by agents up to 1.2.3"),
    "A62": ("NPE303", "a rule gets the ports of the one before it from agents up to 1.0.7"),
}
"""Row -> (code of the fault whose state it leaves, why it is that state): how it came about cannot be seen."""

DEVIATIONS = {
    "A16": ("FIRST_PEER", "older controllers only: explain names the rule for the flow"),
    "A66": ("OWN_NODE", "the own node always passes: explain says so of the flow"),
    "A68": ("BASELINE_DEAD", "Baseline rules are not asked: explain names the rule for the flow"),
}
"""Row -> (rule of EKS that `explain` names, and why no finding is told): tests/unit/test_deviations.py makes each."""

QUESTIONS = {
    "P20": ("NOISE", "multicast and start-up drops of the log: drops tells them apart"),
    "P22": ("NPE615", "no flow lines: drops says why"),
    "A63": ("NPE114", "ping: explain tells it of the flow"),
    "A64": ("STILL_DENIED", "ICMP errors from a router: drops shows them as denied flows"),
    "A67": ("NPE115", "connections from another node's address: explain tells it of the flow"),
    "A73": ("STALE_REPLY", "an entry was cleaned up under a living flow: its replies are in the log"),
    "A81": ("NPE615", "no flow lines: drops says why"),
    "A83": ("STILL_DENIED", "addresses without their last octets: the log is read as the agent means it"),
    "A87": ("OTHER_END", "the other pod's program decided: drops says so, and explain judges both ends"),
}
"""Row -> (finding or kind of a logged drop, and the verb that tells it)."""

NOT_MADE = {
    "A28": "the older CLI fails on names with dots; this tool does not use it unless --via agent, whose tests have it",
    "A41": "right as it is: a policy for pods of other nodes leaves nothing here; every healthy cluster has such nodes",
    "A65": "fragments have no ports: the datapath reads what stands there, and nothing is left to see afterwards",
    "A71": "IPv6 extension headers: the program reads the first header's number; nothing is left to see afterwards",
    "A82": "the agent's metrics are not read: they count what its event log has, and `drops` reads that",
    "A84": "a limit of the agent's own CLI up to 1.0.6; --via agent says which slots it shows",
    "A85": "a limit of the agent's own CLI for IPv6; --via agent says that cluster maps stay unknown",
    "A86": "the agent's container has no shell: --via agent runs its CLI directly",
}
"""Row -> why no fault can be made that leaves something to see on a node or in the API."""
