// @ts-check
/**
 * The connection to the server: commands and answers, keep-alive, when to reconnect, and by which
 * transport: WebSocket or, where it is blocked, polling. chat.js interprets the frames.
 */

import { Polling } from "./polling.js";

const SUBPROTOCOL = "chatd.v1";

// From opening a transport to `hello`. The server itself allows a handshake 10 s.
const HELLO_MS = 10_000;
// A page does not see pings. After a minute of silence, or 5 s while an answer is pending, it sends
// a cheap command, which must be answered in time. A late answer is shown.
const SILENCE_MS = 60_000;
const PENDING_MS = 5_000;
const LATE_MS = 3_000;
const PROBE_MS = 10_000;
const TICK_MS = 2_500;
const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 30_000;
// After this many failures before `hello`, while the server is up, the other transport is tried.
const MAX_FAILED_OPENS = 2;
// While polling, WebSocket is tried again after this time, doubled after each failure.
const RETRY_MS = 60_000;
const MAX_RETRY_MS = 30 * 60_000;

const ENDINGS = new Map([
  [4500, "You were kicked"],
  [4501, "You are banned"],
  [4502, "You were signed out"],
]);
const ABNORMAL = 1006;
const POLICY = 1008;
const TOO_BIG = 1009;
const TOO_MANY = 4503;
const TOO_MANY_WAIT_MS = 5_000;

/**
 * Whether reconnecting is pointless after a close code, unless `bye` says otherwise. The codes 4500
 * to 4999 are final, also those that only a later version of the server has.
 * @param {number} code
 */
function isFinal(code) {
  if (code === TOO_MANY) return false;
  return code === POLICY || code === TOO_BIG || (code >= 4500 && code <= 4999);
}

/** The server refused a command. */
export class Refused extends Error {
  /** @param {{code: string, message: string, retry_ms?: number}} error */
  constructor(error) {
    super(error.message);
    this.code = error.code;
    this.retryMs = error.retry_ms;
  }
}

/** The connection ended before the answer arrived. */
export class Lost extends Error {}

/** The text to show for either. @param {unknown} error */
export function explain(error) {
  return error instanceof Refused ? error.message : "Not connected. Try again in a moment.";
}

/**
 * @typedef {{name: "connecting"}
 *   | {name: "open"}
 *   | {name: "waiting", until: number, reason: string}
 *   | {name: "closed", reason: string, code: number}} State
 */

/** The text for the end of the connection. @param {number} code @param {string} reason */
function ending(code, reason) {
  const text = ENDINGS.get(code) ?? "Disconnected";
  if (reason.startsWith(text)) return reason;
  return text.endsWith(reason) ? `${text}.` : `${text}: ${reason}`;
}

export class Connection {
  /** @type {State} */
  state = { name: "connecting" };
  /** Whether the browser reported the loss of its network, and no answer has come since. */
  offline = !navigator.onLine;

  #url;
  #handlers;
  /** @type {WebSocket | Polling | null} */
  #transport = null;
  #greeted = false;
  /** Whether the next transport is polling. */
  #usesPolling = false;
  #failedOpens = 0;
  #retryWait = RETRY_MS;
  #retryAt = 0;
  /** @type {Map<number, {resolve: (ok: any) => void, reject: (why: Error) => void}>} */
  #pending = new Map();
  /** @type {Set<(why: Error) => void>} */
  #sleepers = new Set();
  #lastId = 0;
  #lastReceived = 0;
  #opened = 0;
  #probed = 0;
  #failures = 0;
  #timer = 0;
  /** @type {{code: number, reason: string, reconnect: boolean, retry_ms: number} | null} */
  #bye = null;
  #notBefore = 0;

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
      this.#retryAt = 0; // This may be another network.
      const lost = this.offline;
      this.offline = false;
      if (lost && this.#transport) {
        // It may be dead. Messages without an answer are sent again, each with its key.
        this.reconnect();
      } else this.#wake();
    });
    addEventListener("offline", () => {
      this.offline = true;
      // A server on this machine, or in another network, may still answer.
      if (this.#greeted) this.#probe();
      this.#handlers.changed();
    });
    addEventListener("pageshow", () => this.#wake());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#wake();
    });
    this.#open();
  }

  /** Whether the server is late to answer. */
  get late() {
    return this.#probed > 0 && performance.now() - this.#probed > LATE_MS;
  }

  /** Ends the connection and opens another one at once. */
  reconnect() {
    this.#drop();
    this.#open();
  }

  /** Ends the connection, because the user asks for it. */
  quit() {
    clearTimeout(this.#timer);
    this.#drop();
    this.#setState({ name: "closed", reason: "You left the chat.", code: 1000 });
  }

  /** Reconnects at once, because the user asks for it. */
  retryNow() {
    if (this.state.name === "waiting" || this.state.name === "closed") this.#open();
  }

  /**
   * Sends a command and returns its answer. Throws Refused or Lost.
   * @param {Record<string, unknown>} command
   * @returns {Promise<any>}
   */
  request(command) {
    return new Promise((resolve, reject) => {
      if (!this.#greeted || !this.#transport) {
        reject(new Lost("not connected"));
        return;
      }
      const id = ++this.#lastId;
      this.#pending.set(id, { resolve, reject });
      this.#transport.send(JSON.stringify({ ...command, id }));
    });
  }

  /**
   * Sends a command that has no answer and may get lost.
   * @param {Record<string, unknown>} command
   */
  send(command) {
    if (this.#greeted) this.#transport?.send(JSON.stringify(command));
  }

  /**
   * Waits. Throws Lost if the connection ends meanwhile.
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
    this.#notBefore = 0;
    this.#use(this.#usesPolling ? new Polling(this.#handlers.auth()) : this.#webSocket());
  }

  #webSocket() {
    return new WebSocket(this.#url, SUBPROTOCOL);
  }

  /** @param {WebSocket | Polling} transport */
  #use(transport) {
    this.#transport = transport;
    this.#bye = null;
    this.#probed = 0;
    this.#opened = this.#lastReceived = performance.now();
    // Ignore transports that were given up.
    transport.onmessage = (/** @type {{data: string}} */ event) => {
      if (transport === this.#transport) this.#received(event.data);
    };
    transport.onclose = (/** @type {{code: number, reason: string}} */ event) => {
      if (transport === this.#transport) this.#ended(event.code, event.reason);
    };
    this.#setState({ name: "connecting" });
  }

  /** Tries WebSocket while polling goes on; its first frame, `hello`, makes it take over. */
  #tryWebSocket() {
    this.#retryAt = performance.now() + this.#retryWait;
    this.#retryWait = Math.min(MAX_RETRY_MS, 2 * this.#retryWait);
    const polling = this.#transport;
    const socket = this.#webSocket();
    const late = setTimeout(() => socket.close(), HELLO_MS);
    socket.onmessage = (event) => {
      clearTimeout(late);
      if (polling !== this.#transport) {
        socket.close(); // Too late: the polling has ended.
        return;
      }
      this.#drop();
      this.#use(socket);
      this.#received(event.data);
    };
  }

  /**
   * A transport failed before `hello`. If the server is ready for clients, the transport is at
   * fault: after two such failures in a row the other one is used.
   */
  async #openFailed() {
    const signal = AbortSignal.timeout(PROBE_MS);
    const response = await fetch("readyz", { cache: "no-store", signal }).catch(() => null);
    this.#failedOpens = response?.ok && !this.#greeted ? this.#failedOpens + 1 : 0;
    if (this.#failedOpens < MAX_FAILED_OPENS) return;
    this.#failedOpens = 0;
    this.#usesPolling = !this.#usesPolling;
    this.#retryWait = RETRY_MS;
    this.#retryAt = performance.now() + RETRY_MS;
    if (this.state.name === "waiting") this.#open();
  }

  /** @param {unknown} data */
  #received(data) {
    this.#lastReceived = performance.now();
    const { late } = this;
    this.#probed = 0;
    if (late) this.#handlers.changed();
    /** @type {any} */
    let frame;
    try {
      frame = JSON.parse(String(data));
    } catch {
      return;
    }
    if ("re" in frame) {
      const pending = this.#pending.get(frame.re);
      if (!pending) return;
      this.#pending.delete(frame.re);
      if (frame.error) pending.reject(new Refused(frame.error));
      else pending.resolve(frame.ok);
    } else if (frame.on === "hello") {
      this.#greeted = true;
      this.#usesPolling = this.#transport instanceof Polling;
      this.#failedOpens = 0;
      this.offline = false;
      this.#setState({ name: "open" });
      this.#handlers.hello(frame);
    } else if (frame.on === "bye") {
      this.#bye = frame;
    } else {
      this.#handlers.event(frame);
    }
  }

  /** Resets the backoff, once all rooms are joined. */
  resetBackoff() {
    this.#failures = 0;
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #ended(code, reason) {
    const bye = this.#bye;
    if (!this.#greeted && code === ABNORMAL) void this.#openFailed();
    this.#drop();

    const final = bye ? !bye.reconnect : isFinal(code);
    if (final) {
      code = bye?.code ?? code;
      this.#setState({ name: "closed", reason: ending(code, bye?.reason || reason), code });
      return;
    }
    let wait = Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures);
    this.#failures += 1;
    // When a server ends, all clients lose it at once: spread them over half of the wait.
    wait *= 0.5 + Math.random() / 2;
    if (code === TOO_MANY) wait += TOO_MANY_WAIT_MS;
    if (bye?.retry_ms) {
      wait = bye.retry_ms;
      this.#notBefore = performance.now() + wait;
    }
    this.#timer = setTimeout(() => this.#open(), wait);
    this.#setState({ name: "waiting", until: performance.now() + wait, reason: bye?.reason ?? "" });
  }

  /** Gives up the transport and rejects what waits for it. */
  #drop() {
    const transport = this.#transport;
    this.#transport = null;
    this.#greeted = false;
    // Do not wait for the closing handshake: on a dead connection it can take minutes.
    transport?.close();
    const error = new Lost("the connection was lost");
    const waiting = [...this.#pending.values()]
      .map((pending) => pending.reject)
      .concat(...this.#sleepers);
    this.#pending.clear();
    this.#sleepers.clear();
    for (const reject of waiting) reject(error);
  }

  #tick() {
    const now = performance.now();
    const silent = now - this.#lastReceived;
    if (!this.#transport) return;
    if (!this.#greeted) {
      if (now - this.#opened <= HELLO_MS) return;
      this.#failedOpens += 1; // A timeout counts twice: it takes longer than a refusal.
      this.#ended(ABNORMAL, "");
      return;
    }
    if (this.#usesPolling && now > this.#retryAt) this.#tryWebSocket();
    if (this.#probed) {
      if (now - this.#probed > PROBE_MS) this.#ended(ABNORMAL, "");
    } else if (
      (this.#pending.size && silent > PENDING_MS) ||
      (!document.hidden && silent > SILENCE_MS)
    ) {
      this.#probe();
    }
  }

  #probe() {
    this.#probed = performance.now();
    const answered = (/** @type {any} */ ok) => {
      this.offline = false;
      this.#handlers.probed(ok);
    };
    // Errors are handled elsewhere.
    this.request({ do: "rooms" }).then(answered, () => {});
  }

  // The network or the user is back. If the server named a time, wait for it all the same.
  #wake() {
    this.#handlers.changed();
    if (this.state.name === "waiting" && performance.now() >= this.#notBefore) this.#open();
    else if (
      this.#greeted &&
      !this.#probed &&
      performance.now() - this.#lastReceived > PENDING_MS
    ) {
      this.#probe();
    }
  }

  /** @param {State} state */
  #setState(state) {
    this.state = state;
    this.#handlers.changed();
  }
}
