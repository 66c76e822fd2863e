"""Measures, each in a file of its own: pure functions over arrays, and what runs a model to get them."""
