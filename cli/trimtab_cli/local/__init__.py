"""A world without a cluster: an API server in memory, Jobs and pods as processes, a Service as a TCP forwarder.

The operator's own reconcile runs on it unchanged, so a laptop follows the same rules as a cluster.
"""
