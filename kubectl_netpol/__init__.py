"""kubectl netpol-ebpf: what a NetworkPolicy really is in the kernel of an Amazon EKS node."""

__version__ = "0.1.0"
