"""``python -m kubectl_netpol`` is the same program as ``kubectl netpol-ebpf``."""

from kubectl_netpol.start import main

if __name__ == "__main__":
    main()
