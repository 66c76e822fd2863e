"""The imperative shell: observe, decide, act, once for each key of the queue."""
