// @ts-check
/**
 * One line after another to the same place: commands and their answers, signs of life, when to come
 * back, and by which way: a WebSocket or, where none passes, polling. What the frames mean is
 * chat.js's.
 */

import { Polling } from "./polling.js";

const SUBPROTOCOL = "chatd.v1";

// From opening the line to `hello`. The daemon itself gives a handshake 10 s.
const HELLO_MS = 10_000;
// A browser does not show pings. Silence of a minute, or of 10 s while an answer is owed, is
// looked into with a cheap command, and that one must be answered in time.
const SILENCE_MS = 60_000;
const OWED_MS = 10_000;
const PROBE_MS = 10_000;
const TICK_MS = 2_500;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;
// So many lines of a kind that fail before `hello` while the daemon is there: then the other kind.
const DOUBTS = 2;
// On polling, a WebSocket is tried again after this time, and each time after twice as long.
const BACK_MS = 60_000;
const LONGEST_BACK_MS = 30 * 60_000;

/** Close codes after which coming back does not help (with bye, bye decides). */
const FINAL = new Map([
  [1008, "The server refused this connection."],
  [1009, "A message was too big for the server."],
  [4500, "You were kicked."],
  [4501, "You are banned."],
  [4502, "You are not authorized."],
]);
const ABNORMAL = 1006;
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

/** What a person is told of either. @param {unknown} error */
export function why(error) {
  return error instanceof Refused ? error.message : "Not connected. Try again in a moment.";
}

/**
 * @typedef {{name: "connecting"}
 *   | {name: "open"}
 *   | {name: "waiting", until: number, reason: string}
 *   | {name: "closed", reason: string, code: number}} State
 */

export class Connection {
  /** @type {State} */
  state = { name: "connecting" };

  #url;
  #handlers;
  /** @type {WebSocket | Polling | null} */
  #line = null;
  #greeted = false;
  /** Whether the next line is by polling. */
  #polls = false;
  #doubts = 0;
  #backWait = BACK_MS;
  #backAt = 0;
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
  /** @type {{code: number, reason: string, reconnect: boolean, retry_ms: number} | null} */
  #bye = null;
  #heldUntil = 0;

  /**
   * @param {string} url
   * @param {{hello: (hello: any) => void, event: (event: any) => void,
   *   changed: () => void, probed: (ok: any) => void,
   *   auth: () => object}} handlers
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  start() {
    setInterval(() => this.#tick(), TICK_MS);
    addEventListener("online", () => {
      this.#backAt = 0; // Another network, maybe.
      this.#wake();
    });
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
      if (!this.#greeted || !this.#line) {
        reject(new Lost("not connected"));
        return;
      }
      const id = ++this.#lastId;
      this.#owed.set(id, { resolve, reject });
      this.#line.send(JSON.stringify({ ...command, id }));
    });
  }

  /**
   * Sends a command that has no answer; what is lost of those is no loss.
   * @param {Record<string, unknown>} command
   */
  tell(command) {
    if (this.#greeted) this.#line?.send(JSON.stringify(command));
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
    this.#heldUntil = 0;
    this.#hear(this.#polls ? new Polling(this.#handlers.auth()) : this.#webSocket());
  }

  #webSocket() {
    return new WebSocket(this.#url, SUBPROTOCOL);
  }

  /** @param {WebSocket | Polling} line */
  #hear(line) {
    this.#line = line;
    this.#bye = null;
    this.#probed = 0;
    this.#opened = this.#heard = performance.now();
    // A line that was given up may still speak: only the present one is listened to.
    line.onmessage = (/** @type {{data: string}} */ event) => {
      if (line === this.#line) this.#received(event.data);
    };
    line.onclose = (/** @type {{code: number, reason: string}} */ event) => {
      if (line === this.#line) this.#lost(event.code, event.reason);
    };
    this.#become({ name: "connecting" });
  }

  /** Tries a WebSocket beside the polling; with its first frame, `hello`, it takes over. */
  #tryBack() {
    this.#backAt = performance.now() + this.#backWait;
    this.#backWait = Math.min(LONGEST_BACK_MS, 2 * this.#backWait);
    const polling = this.#line;
    const socket = this.#webSocket();
    const late = setTimeout(() => socket.close(), HELLO_MS);
    socket.onmessage = (event) => {
      clearTimeout(late);
      if (polling !== this.#line) {
        socket.close(); // Too late: all begins anew already, or nothing does.
        return;
      }
      this.#drop();
      this.#hear(socket);
      this.#received(event.data);
    };
  }

  /**
   * A line failed before `hello`. Where the daemon is there and welcomes clients, it is the way that
   * is closed; two in a row, and the other one is taken.
   */
  async #doubt() {
    const signal = AbortSignal.timeout(PROBE_MS);
    const there = await fetch("readyz", { cache: "no-store", signal }).catch(() => null);
    this.#doubts = there?.ok && !this.#greeted ? this.#doubts + 1 : 0;
    if (this.#doubts < DOUBTS) return;
    this.#doubts = 0;
    this.#polls = !this.#polls;
    this.#backWait = BACK_MS;
    this.#backAt = performance.now() + BACK_MS;
    if (this.state.name === "waiting") this.#open();
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
      this.#polls = this.#line instanceof Polling;
      this.#doubts = 0;
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
    if (!this.#greeted && code === ABNORMAL) void this.#doubt();
    this.#drop();

    const final = bye ? !bye.reconnect : FINAL.has(code);
    if (final) {
      const why = bye?.reason || reason || FINAL.get(code) || "";
      this.#become({ name: "closed", reason: why, code: bye?.code ?? code });
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

  /** Ends the present line: nothing more is heard on it, or answered. */
  #drop() {
    const line = this.#line;
    this.#line = null;
    this.#greeted = false;
    // A dead line's closing handshake takes as long as the browser likes; nobody waits for it.
    line?.close();
    const why = new Lost("the connection was lost");
    const waiting = [...this.#owed.values()].map((owed) => owed.reject).concat(...this.#sleepers);
    this.#owed.clear();
    this.#sleepers.clear();
    for (const reject of waiting) reject(why);
  }

  #tick() {
    const now = performance.now();
    const silent = now - this.#heard;
    if (!this.#line) return;
    if (!this.#greeted) {
      if (now - this.#opened <= HELLO_MS) return;
      this.#doubts += 1; // Silence costs more time than a refusal: once is enough.
      this.#lost(ABNORMAL, "");
      return;
    }
    if (this.#polls && now > this.#backAt) this.#tryBack();
    if (this.#probed) {
      if (this.#heard >= this.#probed) this.#probed = 0;
      else if (now - this.#probed > PROBE_MS) this.#lost(ABNORMAL, "");
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
