"""Exponentially decayed sums of item embeddings."""
