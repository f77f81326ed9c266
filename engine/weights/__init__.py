"""Reading checkpoints into the memory a model has declared."""
