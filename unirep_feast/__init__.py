"""Universal user vectors that live in a feature store.

Only light names live here: importing this package imports neither torch nor feast.
Everything else has a module named after what flows through it, in the order it flows:
``events → sequences → batch → trainer → checkpoint → inference → snapshot → feature_store``.
"""

from __future__ import annotations

import pluggy

from unirep_feast.errors import UnirepError

__version__ = "0.1.0"

#: The newest plugin API this host speaks.
API_VERSION = 1

#: All that it speaks. A plugin says in its hook module what it speaks, ``UNIREP_API = 1`` or
#: ``UNIREP_API = (1, 2)``, and the newest that both speak is used; one that says nothing speaks 1.
API_VERSIONS = (1,)

#: Marks a function of a plugin's hook module as an implementation of a hook.
hookimpl = pluggy.HookimplMarker("unirep")

__all__ = ["API_VERSION", "API_VERSIONS", "UnirepError", "__version__", "hookimpl"]
