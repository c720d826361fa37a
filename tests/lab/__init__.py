"""A node on this machine: namespaces, veths, tc and BPF, so that tests meet the real kernel."""
