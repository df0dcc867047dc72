// @ts-check
/**
 * Messages that the daemon has not confirmed: in this tab, over reconnects and reloads, each with
 * the key that makes saying it again harmless.
 */

import { Refused } from "./connection.js";
import { own } from "./storage.js";

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;
// Longer than this, and it is told why nothing is sent. And not longer is waited at once: what an
// operator said may be taken back.
const UNTOLD_MS = 2_000;
const LONGEST_WAIT_MS = 60_000;

/** Refusals after which waiting helps. */
const PASSING = new Set(["rate_limited", "unavailable", "muted"]);

/**
 * @typedef {object} Unsent
 * @property {string} key
 * @property {string} room
 * @property {string} text
 * @property {number} at when it was written, ms
 * @property {string | null} user as whom it was sent; null while it never was
 * @property {"queued" | "sending" | "held" | "sent" | "failed"} state
 * @property {number} replyTo the message that it answers; 0: none
 * @property {string} [reason] why it failed, or is held
 * @property {number} [seq] once it is sent
 * @property {boolean} [seen] an event in the log looks like it, its answer is still to come
 */

// Not crypto.randomUUID: that one is missing on http:// pages of other machines.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

export class Outbox {
  /** @type {Unsent[]} */
  items;
  #connection;
  #changed;
  /** @type {Set<string>} rooms in which a message is on its way */
  #busy = new Set();
  /** What ends the waiting in a room. @type {Map<string, () => void>} */
  #waits = new Map();

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {() => void} changed
   */
  constructor(connection, changed) {
    this.#connection = connection;
    this.#changed = changed;
    /** @type {Unsent[]} */
    const kept = own.get("unsent", []);
    this.items = kept.filter((item) => item.state !== "sent");
    for (const item of this.items) if (item.state !== "failed") item.state = "queued";
  }

  /** @param {string} room */
  of(room) {
    return this.items.filter((item) => item.room === room);
  }

  /**
   * @param {string} room
   * @param {string} text
   * @param {number} replyTo
   */
  add(room, text, replyTo) {
    const at = Date.now();
    this.items.push({ key: randomKey(), room, text, replyTo, at, user: null, state: "queued" });
    this.#save();
  }

  /** @param {string} key */
  retry(key) {
    const item = this.items.find((each) => each.key === key);
    if (!item) return;
    item.state = "queued";
    delete item.reason;
    this.#waits.get(item.room)?.();
    this.#save();
  }

  /** @param {string} key */
  discard(key) {
    const gone = this.items.find((item) => item.key === key);
    this.items = this.items.filter((item) => item !== gone);
    if (gone?.state === "held") this.#waits.get(gone.room)?.();
    this.#save();
  }

  /**
   * The log has shown an event of ours. Its answer came first, unless this is a resume.
   * @param {string} room
   * @param {{seq: number, text: string}} event
   */
  shown(room, event) {
    const found =
      this.items.find((item) => item.room === room && item.seq === event.seq) ??
      this.items.find(
        (item) =>
          item.room === room &&
          item.text === event.text &&
          (item.state === "sending" || (item.state === "queued" && item.user)) &&
          !item.seen,
      );
    if (!found) return;
    if (found.seq) this.discard(found.key);
    else found.seen = true;
  }

  /**
   * The room's log begins anew: what was sent is in it, or gone with it.
   * @param {string} room
   */
  renewed(room) {
    this.items = this.items.filter((item) => item.room !== room || item.state !== "sent");
    this.#save();
  }

  /**
   * A room turned out to be written in another way.
   * @param {string} from
   * @param {string} to
   */
  renamed(from, to) {
    for (const item of this.items) if (item.room === from) item.room = to;
    this.#save();
  }

  /**
   * Keys count for their user alone. What went out as another one and was not answered may have
   * been said: that is for a person to decide.
   * @param {string} user
   */
  became(user) {
    for (const item of this.items) {
      if (item.user && item.user !== user && item.state === "queued") {
        item.state = "failed";
        item.reason = "You came back as another guest. It may have been said already.";
      }
    }
    this.#save();
  }

  /**
   * @param {string} room
   * @param {string} reason
   */
  fail(room, reason) {
    for (const item of this.items) {
      if (item.room === room && item.state === "queued")
        Object.assign(item, { state: "failed", reason });
    }
    this.#save();
  }

  /**
   * Sends what waits in a room, one after another: two on their way could change places when the
   * first is refused for its rate.
   * @param {import("./room.js").Room} room
   * @param {string} user
   */
  async send(room, user) {
    if (this.#busy.has(room.name)) return;
    this.#busy.add(room.name);
    let pause = FIRST_PAUSE_MS;
    /** @type {Unsent | undefined} */
    let item;
    try {
      while (
        room.joined &&
        (item = this.items.find((each) => each.room === room.name && each.state === "queued"))
      ) {
        item.state = "sending";
        item.user = user;
        this.#save();
        try {
          const { key, text, replyTo } = item;
          const command = { do: "say", room: room.name, text, key, reply_to: replyTo || undefined };
          const { seq } = await this.#connection.request(command);
          item.state = "sent";
          item.seq = seq;
          // What has no number is told and not kept: its event is on the way.
          if (!seq || room.last >= seq) this.discard(key);
          pause = FIRST_PAUSE_MS;
        } catch (error) {
          item.state = "queued";
          delete item.seen;
          if (!(error instanceof Refused)) throw error;
          if (PASSING.has(error.code) && (error.retryMs || error.code !== "muted")) {
            await this.#wait(item, error, error.retryMs ?? pause);
            pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
          } else {
            item.state = "failed";
            item.reason = error.message;
          }
        }
        this.#save();
      }
    } catch {
      // Lost: the next join takes it up again.
    } finally {
      this.#busy.delete(room.name);
      this.#save();
    }
  }

  /** @param {Unsent} item @param {Refused} error @param {number} ms */
  async #wait(item, error, ms) {
    if (ms > UNTOLD_MS) Object.assign(item, { state: "held", reason: error.message });
    this.#save();
    const asked = new Promise((resolve) => this.#waits.set(item.room, () => resolve(undefined)));
    try {
      await Promise.race([this.#connection.sleep(Math.min(ms, LONGEST_WAIT_MS)), asked]);
    } finally {
      if (item.state === "held") item.state = "queued";
      delete item.reason;
    }
  }

  #save() {
    own.set(
      "unsent",
      this.items.filter((item) => item.state !== "sent"),
    );
    this.#changed();
  }
}
