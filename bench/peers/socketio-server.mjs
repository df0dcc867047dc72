// The server of Socket.IO's tutorial: a `chat message` from one client goes to all.
// Usage: node socketio-server.mjs PORT
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const http = createServer();
const io = new Server(http);

io.on('connection', (socket) => {
  socket.on('chat message', (text) => {
    io.emit('chat message', text);
  });
});

http.listen(Number(process.argv[2]), '127.0.0.1');
