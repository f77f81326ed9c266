"""The feed-forward half of a layer: routing, the routed experts' sum, SwiGLU."""
