"""An attention layer between its projections."""
