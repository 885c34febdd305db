"""Let pytorch-lifestream 0.7 import its own preprocessing.

Its wheel lacks the subpackage `ptls.preprocessing.dask.dask_transformation`, which
`ptls.preprocessing` imports for the Dask and Spark preprocessors. The pandas one never
uses it, so an empty stand-in of that name is enough. Import this module before `ptls`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MISSING = "ptls.preprocessing.dask.dask_transformation"


class _Standin(ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == MISSING or fullname.startswith(f"{MISSING}."):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Standin(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: names appear when they are asked for."""


sys.meta_path.append(_Finder())
