"""Measures that only painted truth allows."""
