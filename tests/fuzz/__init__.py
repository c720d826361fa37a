"""Hostile input: every decoder meets what it should never meet. docs/fuzzing.md says how."""
