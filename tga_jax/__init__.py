"""Text-Guided Alignment (TGA) in JAX: text safety carried over to images. `tga --help` lists the commands."""

__version__ = "0.1.0"
