"""The wire: listeners, TLS, HTTP/1.1, WebSocket, the outbox. It knows no messages."""
