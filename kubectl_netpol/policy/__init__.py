"""What the API objects mean. Pure: no I/O, no clock, no printing."""
