"""What the commands do, as functions: train, encode. Each arrow of the design is one module."""

from __future__ import annotations

from unirep_feast.pipeline.encoding import Encoding, encode
from unirep_feast.pipeline.loading import read_spec
from unirep_feast.pipeline.training import Training, train

__all__ = ["Encoding", "Training", "encode", "read_spec", "train"]
