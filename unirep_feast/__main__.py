"""`python -m unirep_feast` is `unirep`: what torchrun starts, for it takes modules and scripts."""

from __future__ import annotations

from unirep_feast.cli import main

if __name__ == "__main__":
    main(prog_name="unirep")
