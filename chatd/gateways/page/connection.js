// @ts-check
/**
 * One WebSocket after another to the same place: commands and their answers, signs of life, when
 * to come back. What the frames mean is chat.js's.
 */

const SUBPROTOCOL = "chatd.v1";

// From opening the socket to `hello`. The daemon itself gives a handshake 10 s.
const HELLO_MS = 15_000;
// A browser does not show pings. Silence of a minute, or of 10 s while an answer is owed, is
// looked into with a cheap command, and that one must be answered in time.
const SILENCE_MS = 60_000;
const OWED_MS = 10_000;
const PROBE_MS = 10_000;
const TICK_MS = 2_500;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;

/** Close codes after which coming back does not help (with bye, bye decides). */
const FINAL = new Map([
  [1008, "The server refused this connection."],
  [1009, "A message was too big for the server."],
  [4500, "You were kicked."],
  [4501, "You are banned."],
  [4502, "You are not authorized."],
]);
const TOO_MANY = 4503;
const TOO_MANY_WAIT_MS = 5_000;

/** A command's refusal, as the daemon gave it. */
export class Refused extends Error {
  /** @param {{code: string, message: string, retry_ms?: number}} error */
  constructor(error) {
    super(error.message);
    this.code = error.code;
    this.retryMs = error.retry_ms;
  }
}

/** The connection ended before the answer came. */
export class Lost extends Error {}

/**
 * @typedef {{name: "connecting"}
 *   | {name: "open"}
 *   | {name: "waiting", until: number, reason: string}
 *   | {name: "closed", reason: string}} State
 */

export class Connection {
  /** @type {State} */
  state = { name: "connecting" };

  #url;
  #handlers;
  /** @type {WebSocket | null} */
  #socket = null;
  #greeted = false;
  /** @type {Map<number, {resolve: (ok: any) => void, reject: (why: Error) => void}>} */
  #owed = new Map();
  /** @type {Set<(why: Error) => void>} */
  #sleepers = new Set();
  #lastId = 0;
  #heard = 0;
  #opened = 0;
  #probed = 0;
  #failures = 0;
  #timer = 0;
  /** @type {{reason: string, reconnect: boolean, retry_ms: number} | null} */
  #bye = null;
  #heldUntil = 0;

  /**
   * @param {string} url
   * @param {{hello: (hello: any) => void, event: (event: any) => void,
   *   changed: () => void, probed: (ok: any) => void}} handlers
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  start() {
    setInterval(() => this.#tick(), TICK_MS);
    addEventListener("online", () => this.#wake());
    addEventListener("offline", () => this.#handlers.changed());
    addEventListener("pageshow", () => this.#wake());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#wake();
    });
    this.#open();
  }

  /** Somebody asks for it: no waiting, whatever was said before. */
  retryNow() {
    if (this.state.name === "waiting" || this.state.name === "closed") this.#open();
  }

  /**
   * Sends a command; gives its answer. Throws Refused, or Lost.
   * @param {Record<string, unknown>} command
   * @returns {Promise<any>}
   */
  request(command) {
    return new Promise((resolve, reject) => {
      if (!this.#greeted || !this.#socket) {
        reject(new Lost("not connected"));
        return;
      }
      const id = ++this.#lastId;
      this.#owed.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...command, id }));
    });
  }

  /**
   * Waits, but not longer than this connection lives: then it throws Lost.
   * @param {number} ms
   * @returns {Promise<void>}
   */
  sleep(ms) {
    return new Promise((resolve, reject) => {
      this.#sleepers.add(reject);
      setTimeout(() => {
        this.#sleepers.delete(reject);
        resolve();
      }, ms);
    });
  }

  #open() {
    clearTimeout(this.#timer);
    this.#bye = null;
    this.#heldUntil = 0;
    this.#probed = 0;
    this.#opened = this.#heard = performance.now();
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    // A socket that was given up may still speak: only the present one is listened to.
    socket.addEventListener("message", (event) => {
      if (socket === this.#socket) this.#received(event.data);
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.#socket) this.#lost(event.code, event.reason);
    });
    this.#become({ name: "connecting" });
  }

  /** @param {unknown} data */
  #received(data) {
    this.#heard = performance.now();
    /** @type {any} */
    let frame;
    try {
      frame = JSON.parse(String(data));
    } catch {
      return;
    }
    if ("re" in frame) {
      const owed = this.#owed.get(frame.re);
      if (!owed) return;
      this.#owed.delete(frame.re);
      if (frame.error) owed.reject(new Refused(frame.error));
      else owed.resolve(frame.ok);
    } else if (frame.on === "hello") {
      this.#greeted = true;
      this.#become({ name: "open" });
      this.#handlers.hello(frame);
    } else if (frame.on === "bye") {
      this.#bye = frame;
    } else {
      this.#handlers.event(frame);
    }
  }

  /** What the chat calls once it is in its rooms: the next loss starts with a short wait again. */
  settled() {
    this.#failures = 0;
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #lost(code, reason) {
    const bye = this.#bye;
    const socket = this.#socket;
    this.#socket = null;
    this.#greeted = false;
    // A dead line's closing handshake takes as long as the browser likes; nobody waits for it.
    socket?.close();
    const why = new Lost("the connection was lost");
    const waiting = [...this.#owed.values()].map((owed) => owed.reject).concat(...this.#sleepers);
    this.#owed.clear();
    this.#sleepers.clear();
    for (const reject of waiting) reject(why);

    const final = bye ? !bye.reconnect : FINAL.has(code);
    if (final) {
      this.#become({ name: "closed", reason: bye?.reason || reason || FINAL.get(code) || "" });
      return;
    }
    let wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures);
    this.#failures += 1;
    // Everybody is lost in the same moment when a server goes: spread over half of the wait.
    wait *= 0.5 + Math.random() / 2;
    if (code === TOO_MANY) wait += TOO_MANY_WAIT_MS;
    if (bye?.retry_ms) {
      wait = bye.retry_ms;
      this.#heldUntil = performance.now() + wait;
    }
    this.#timer = setTimeout(() => this.#open(), wait);
    this.#become({ name: "waiting", until: performance.now() + wait, reason: bye?.reason ?? "" });
  }

  #tick() {
    const now = performance.now();
    const silent = now - this.#heard;
    if (!this.#socket) return;
    if (!this.#greeted) {
      if (now - this.#opened > HELLO_MS) this.#lost(1006, "");
    } else if (this.#probed) {
      if (this.#heard >= this.#probed) this.#probed = 0;
      else if (now - this.#probed > PROBE_MS) this.#lost(1006, "");
    } else if ((this.#owed.size && silent > OWED_MS) || (!document.hidden && silent > SILENCE_MS)) {
      this.#probe();
    }
  }

  #probe() {
    this.#probed = performance.now();
    // Refused or lost: both are dealt with where they are noticed.
    this.request({ do: "rooms" }).then(this.#handlers.probed, () => {});
  }

  // The network or the eyes are back. A server that named a time is left alone until then.
  #wake() {
    this.#handlers.changed();
    if (this.state.name === "waiting" && performance.now() >= this.#heldUntil) this.#open();
    else if (this.#greeted && !this.#probed && performance.now() - this.#heard > OWED_MS) {
      this.#probe();
    }
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.#handlers.changed();
  }
}
