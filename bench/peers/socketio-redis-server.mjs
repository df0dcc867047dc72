// The server of Socket.IO's tutorial, several of which share one Redis: a `chat message` from one
// client goes to the clients of all.
// Usage: node socketio-redis-server.mjs PORT REDIS_SOCKET
import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-streams-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const redis = createClient({ socket: { path: process.argv[3] } });
await redis.connect();

const http = createServer();
const io = new Server(http, { adapter: createAdapter(redis) });

io.on('connection', (socket) => {
  socket.on('chat message', (text) => {
    io.emit('chat message', text);
  });
});

http.listen(Number(process.argv[2]), '127.0.0.1');
