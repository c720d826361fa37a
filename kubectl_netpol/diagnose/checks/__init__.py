"""The checks: one module a layer, each from what was read to findings."""
