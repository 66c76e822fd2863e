"""Change the weights of an ONNX graph chunk by chunk: memory is bounded by the chunks, not by the model.

weights.py knows where the numbers are, kernels.py computes, schemes.py says which tensors and nodes stand for a weight,
output.py keeps what is made, rewrite.py puts the graph together and lets every core read, compute and write at once.
"""
