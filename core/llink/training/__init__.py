"""Training: feature cache, stage A, stage B, checkpoints."""
