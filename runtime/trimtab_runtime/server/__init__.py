"""The servers: REST and gRPC over one data plane, their metrics, and how they start and stop."""
