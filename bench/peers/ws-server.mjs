// The broadcast server of the README of npm's `ws`, "including itself": every message goes to all clients.
// Usage: node ws-server.mjs PORT
import WebSocket, { WebSocketServer } from 'ws';

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]) });

server.on('connection', (client) => {
  client.on('error', console.error);
  client.on('message', (data, isBinary) => {
    server.clients.forEach((other) => {
      if (other.readyState === WebSocket.OPEN) {
        other.send(data, { binary: isBinary });
      }
    });
  });
});
