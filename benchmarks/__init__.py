"""Benchmarks: one command each, JSON out, never part of the tests."""
