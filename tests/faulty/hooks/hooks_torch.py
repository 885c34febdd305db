"""Imports torch with the hooks, as half of all plugins would at first."""

from __future__ import annotations

import torch
from pydantic import BaseModel

from unirep_feast import hookimpl


class Settings(BaseModel, extra="forbid"):
    """None."""


@hookimpl
def unirep_register_encoders(register: object) -> None:
    register("bad.encoder", lambda settings, vocabulary, prepared: torch.nn.Identity(), Settings)
