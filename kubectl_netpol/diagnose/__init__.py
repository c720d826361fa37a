"""Layers side by side. Pure: no I/O, no clock, no printing."""
