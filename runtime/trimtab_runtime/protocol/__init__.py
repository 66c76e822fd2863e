"""The Open Inference Protocol as pure functions: tensors to arrays and back. No server, no session."""
