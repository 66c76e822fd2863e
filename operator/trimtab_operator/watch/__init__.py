"""kopf, and only here: it watches and triggers; it decides nothing."""
