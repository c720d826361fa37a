"""The program of the archive."""

from kubectl_netpol.start import main

main()
