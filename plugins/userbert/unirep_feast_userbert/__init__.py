"""UserBERT for unirep-feast."""
