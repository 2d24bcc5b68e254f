"""What pages and figures share: how they look, and intervals."""
