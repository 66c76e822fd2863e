"""The control plane: observe the cluster, decide what should be, act on the difference."""
