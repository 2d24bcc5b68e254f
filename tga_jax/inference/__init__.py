"""A loaded checkpoint: answers, hidden states and embeddings."""
