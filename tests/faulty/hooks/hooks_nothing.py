"""Forgets to mark its function as a hook."""

from __future__ import annotations


def unirep_register_encoders(register: object) -> None:
    """Never called."""
