"""Feast objects of this repo. `feast apply` collects what has a name here, so unpack."""

from __future__ import annotations

from pathlib import Path

from unirep_feast.feature_store.views import representation

user, source, view, service = representation(Path(__file__).with_name("decay.yaml")).users
