// A server with rooms: a client joins the room that its `auth` names, and its `chat message` goes to all in it.
// Usage: node socketio-rooms-server.mjs PORT
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const http = createServer();
const io = new Server(http);

io.on('connection', (socket) => {
  const { room } = socket.handshake.auth;
  socket.join(room);
  socket.on('chat message', (text) => {
    io.to(room).emit('chat message', text);
  });
});

http.listen(Number(process.argv[2]), '127.0.0.1');
