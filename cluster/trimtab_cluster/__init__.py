"""A real one-node Kubernetes in a network namespace, for the demo and the tests. Standard library only: it runs first."""
