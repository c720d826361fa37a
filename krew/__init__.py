"""The archives that krew installs. Nothing here is shipped but `entry.py`."""
