"""The wire: listeners, HTTP/1.1, WebSocket, and the outbox. It never knows what the bytes mean."""
