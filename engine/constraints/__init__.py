"""Constrained decoding: from a grammar's text to the tokens that may be drawn next. No torch."""
