"""Builders and worlds for tests."""
