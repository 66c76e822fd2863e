"""The engine between protocols and backend: what runs together, when, and how long it will take."""
