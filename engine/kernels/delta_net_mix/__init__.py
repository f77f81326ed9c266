"""A DeltaNet layer between its projections."""
