"""The text nearest to an image: CLIP embeddings in a faiss index."""
