"""What the benches compare with, each a program of its own; these need torch."""
