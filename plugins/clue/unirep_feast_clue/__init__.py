"""CLUE: contrastive pre-training of sequence-level user representations."""
