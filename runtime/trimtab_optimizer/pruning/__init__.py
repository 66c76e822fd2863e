"""Structured pruning: which channels can be taken out, and how they are."""
