"""Feast objects of this repo. `feast apply` collects what has a name here, so unpack."""

from __future__ import annotations

from pathlib import Path

from unirep_feast.feature_store.views import representation

made = representation(Path(__file__).with_name("purchases_clue.yaml"))
user, source, view, service = made.users
if made.items is not None:  # view.items: true
    item, item_source, item_view, item_service = made.items
if made.interests is not None:  # view.per_interest: true
    interest, interest_source, interest_view, interest_service = made.interests
