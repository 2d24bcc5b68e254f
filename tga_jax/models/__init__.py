"""Linen modules: CLIP, Llama-family decoder, projector, and their configurations."""
