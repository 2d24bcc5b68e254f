"""Where safety lives: hidden states by layer, the logit lens."""
