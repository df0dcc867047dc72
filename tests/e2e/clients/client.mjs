// Socket.IO's own clients, driven by lines on stdin: each a JSON object that says what to `do` with
// which `socket`. Events are written to stdout as JSON objects. Bytes are {"$bytes": base64}.

import { subscribe } from "node:diagnostics_channel";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(import.meta.url);
const sockets = new Map();

// The library's events of a socket's life: 1 and 2 have `error` in place of `connect_error`.
const LIFE = ["connect_error", "error", "disconnect"];
const EVENTS = [
  ...["echo", "answered", "flood"],
  ...["hello", "chat message", "edit", "delete", "topic", "typing", "joined", "left", "nick", "notice", "bye"],
];

const deeply = (change) => function within(value) {
  const changed = change(value);
  if (changed !== undefined) return changed;
  if (Array.isArray(value)) return value.map(within);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, within(item)]));
};

const written = deeply((value) => {
  if (value instanceof ArrayBuffer) value = new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return { $bytes: Buffer.from(value).toString("base64") };
  if (value instanceof Error) return { message: value.message, data: written(value.data ?? null) };
});
const read = deeply((value) => {
  if (typeof value?.$bytes === "string") return Buffer.from(value.$bytes, "base64");
});

function tell(what) {
  process.stdout.write(JSON.stringify(what) + "\n");
}

function watchEngine(name, engine) {
  engine.once("upgrading", () => tell({ socket: name, on: "upgrading", args: [] }));
  engine.once("upgrade", (transport) => tell({ socket: name, on: "upgrade", args: [transport.name] }));
}

// The poll that is with the operating system, so that the server has it whatever becomes of us, and
// is not answered.
let poll = null;
let pollSent = () => {};
subscribe("http.client.request.start", ({ request }) => {
  if (request.method !== "GET") return;
  request.once("finish", () => {
    poll = request;
    pollSent();
  });
  request.once("response", () => {
    poll = null;
  });
});

const commands = {
  // Opens a socket. `burst` is emitted in one go at each of these: connect, upgrading, upgrade. With
  // `resume` it gives the last message's position when it comes back, as a page would do it.
  open({ socket: name, version, url, options, burst, resume }) {
    const library = require(version);
    const socket = (library.io ?? library)(url, options);
    sockets.set(name, socket);
    socket.on("connect", () => tell({ socket: name, on: "connect", args: [socket.recovered === true] }));
    for (const event of LIFE) {
      // A second argument, of some versions' disconnect, is for debugging.
      socket.on(event, (...args) => tell({ socket: name, on: event, args: written(args.slice(0, 1)) }));
    }
    for (const event of EVENTS) {
      socket.on(event, (...args) => tell({ socket: name, on: event, args: written(args) }));
    }
    if (resume) {
      socket.on("chat message", (text, about) => {
        socket.auth = { since: about };
      });
    }
    socket.on("question", (...args) => {
      const ack = args.pop();
      ack(...args);
    });
    watchEngine(name, socket.io.engine);
    let number = 0;
    const emitSome = () => {
      for (let i = 0; i < burst; i++) socket.emit("echo", number++);
    };
    if (burst) {
      socket.once("connect", emitSome);
      // What 1 and 2 are given before they are connected, they send after what `connect` emits.
      const emitConnected = () => (socket.connected ? emitSome() : socket.once("connect", emitSome));
      socket.io.engine.once("upgrading", emitConnected);
      socket.io.engine.once("upgrade", emitConnected);
    }
  },
  // Emits an event; with `re`, the acknowledgement is written with that number.
  emit({ socket: name, args, re }) {
    const ack = (...answer) => tell({ re, args: written(answer) });
    sockets.get(name).emit(...read(args), ...(re === undefined ? [] : [ack]));
  },
  connect({ socket: name }) {
    sockets.get(name).connect();
  },
  disconnect({ socket: name }) {
    sockets.get(name).disconnect();
  },
  // Closes the connection below, as a lost network would.
  cut({ socket: name }) {
    sockets.get(name).io.engine.close();
  },
  // Tells when a poll of it, the only one here, waits for an answer.
  polling({ socket: name }) {
    pollSent = () => {
      pollSent = () => {};
      tell({ socket: name, on: "polling", args: [] });
    };
    if (poll !== null) pollSent();
  },
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  commands[command.do](command);
});
lines.on("close", () => process.exit(0));
