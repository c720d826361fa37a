"""Frozen dataclasses that every room shares."""
