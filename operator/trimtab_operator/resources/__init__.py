"""Pure builders: each returns one complete object, ready for server-side apply."""
