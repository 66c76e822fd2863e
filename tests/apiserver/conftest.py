"""The fixtures of every test against a real API server: one server for all of them."""

from trimtab_testing.apiserver import apiserver, namespace

__all__ = ["apiserver", "namespace"]
