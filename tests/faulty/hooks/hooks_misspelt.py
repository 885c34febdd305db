"""Implements a hook that does not exist; pluggy alone would say nothing."""

from __future__ import annotations

from unirep_feast import hookimpl


@hookimpl
def unirep_register_encoder(register: object) -> None:
    """Never called: the hook is unirep_register_encoders."""
