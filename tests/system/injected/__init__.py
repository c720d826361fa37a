"""The table of injected faults: what is broken, what is run, what it says, with which exit code, and what it leaves.

`*_rows.py` are the table, `running.py` runs one row, `page.py` writes docs/injected-faults.md.
"""
