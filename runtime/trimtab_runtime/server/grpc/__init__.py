"""gRPC: a lean server of our own over HTTP/2, and grpc.aio for who wants the common library."""
