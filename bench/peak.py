"""Runs a command and writes the peak memory of it and its children (KiB resident) to a file.

python -IS peak.py FILE COMMAND...

A process keeps the peak that its parent had when it was forked. This small parent makes that at most 10 MiB.
"""

import os
import sys

pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
