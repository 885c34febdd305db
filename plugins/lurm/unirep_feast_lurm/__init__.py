"""LURM: universal user representations from lifelong histories (Yang et al.)."""
