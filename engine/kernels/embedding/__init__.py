"""Looking up embeddings."""
