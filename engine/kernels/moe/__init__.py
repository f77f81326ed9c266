"""The mixture of experts: routing, and the routed experts' sum."""
