"""A setting that is not the same after it was written and read."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from unirep_feast import hookimpl


class Settings(BaseModel, extra="forbid"):
    """One setting."""

    days: int = Field(7, description="length of a week, in days")

    @field_validator("days")
    @classmethod
    def _grows(cls, value: int) -> int:
        return value + 1


@hookimpl
def unirep_register_samplers(register: object) -> None:
    register("bad.sampler", lambda settings: None, Settings)
