"""Generative models: many answers at once, token by token, out of a folder of ONNX Runtime GenAI."""
