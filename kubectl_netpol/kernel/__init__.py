"""What the kernel holds: layouts, decoders, verdicts. Pure: no I/O, no clock, no printing."""
