"""Reading checkpoints: files as they are mapped, and the weights in them by what they are for."""
