"""Near misses: what a person most likely got wrong in the YAML of a flow that is denied.

`docs/near-misses.md` has an example of each. A sentence that speaks of a change has been tried with the change made:
see ``trial``.
"""

from kubectl_netpol.policy.nearmiss.dns import DnsAnswer, dns_of
from kubectl_netpol.policy.nearmiss.find import near_misses
from kubectl_netpol.policy.nearmiss.record import CODES, NearMiss

__all__ = ["CODES", "DnsAnswer", "NearMiss", "dns_of", "near_misses"]
