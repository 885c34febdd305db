"""`unirep plugins new`: a distribution with a plugin that passes its own tests at once."""

from __future__ import annotations

from unirep_feast.scaffold.writing import PARTS, TRIO, new_plugin

__all__ = ["PARTS", "TRIO", "new_plugin"]
