"""Which sequences are computed next, and how much of each. Plain integers, no torch."""
