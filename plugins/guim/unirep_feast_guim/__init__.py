"""GUIM (Yang et al. 2022) for unirep-feast: users as sets of vectors, items beside them."""
