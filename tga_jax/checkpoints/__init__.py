"""Checkpoints in the hub's formats: safetensors, `.bin` and GGUF in, safetensors out."""
