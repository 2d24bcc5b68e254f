"""The demo's world: things, pictures, questions and answers."""
