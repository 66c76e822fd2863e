"""The `trimtab` command: packages, offline plans, and the whole road on a laptop."""
