"""A PyTorch module becomes an ONNX graph, whatever its size."""
