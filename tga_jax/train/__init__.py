"""Training: from a config to parameters on disk."""
