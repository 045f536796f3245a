"""gRPC towards clients and towards the model server. Its packages are in an extra of their own."""
