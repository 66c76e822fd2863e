"""The only place that talks to the API server through the `kubernetes` package (an import rule)."""
