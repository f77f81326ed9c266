"""The architecture and its configuration. It knows kernels and weights, but no runner, scheduler or cache."""
