"""Records, templates, tokens and the Grain pipeline: NumPy only, no device."""
