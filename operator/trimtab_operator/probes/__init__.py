"""HTTP to our own servers and to registries, over httpx: metrics of serving pods, artifacts by plan."""
