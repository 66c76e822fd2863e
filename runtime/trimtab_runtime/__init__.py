"""The data plane: serves one artifact over the Open Inference Protocol, REST and gRPC."""
