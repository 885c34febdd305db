"""ICL: interest-oriented universal user representations by contrastive learning (Sun et al.)."""
