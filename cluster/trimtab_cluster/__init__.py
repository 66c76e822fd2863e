"""A real one-node Kubernetes for the demo and the tests. Standard library only: it runs before any install."""
