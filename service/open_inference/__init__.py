"""The Open Inference Protocol v2 over HTTP and gRPC, with those of Triton's extensions that fit."""
