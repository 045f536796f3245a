"""HTTP/1.1: connections of clients, connections to the model server, and the gate as an ASGI application."""
