"""HTTP/2 for a server, as much as gRPC needs, without I/O: bytes in, calls of a handler out, bytes to send."""
