// @ts-check
/**
 * Messages that the server has not confirmed. They survive reconnects and reloads of this tab; each
 * has a key, so that sending it again is harmless.
 */

import { Refused } from "./connection.js";
import { own } from "./storage.js";

const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 15_000;
// A longer wait shows its reason. The longest wait is bounded, because an operator may lift a mute
// or slow mode meanwhile.
const SILENT_MS = 2_000;
const MAX_WAIT_MS = 60_000;

/** Refusals that pass with time. */
const TEMPORARY = new Set(["rate_limited", "unavailable", "muted"]);

/**
 * @typedef {object} Unsent
 * @property {string} key
 * @property {string} room
 * @property {string} text
 * @property {number} at when it was written
 * @property {string | null} user who sent it; null if it was never sent
 * @property {"queued" | "sending" | "held" | "sent" | "failed"} state
 * @property {number} replyTo a number, or 0
 * @property {string} [reason] why it failed or waits
 * @property {number} [seq] once sent
 * @property {boolean} [seen] whether its event has probably arrived before its answer
 */

// crypto.randomUUID is missing on http:// pages of other hosts.
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
  /** @type {Set<string>} rooms in which a message is being sent */
  #busy = new Set();
  /** Functions that end the wait in a room. @type {Map<string, () => void>} */
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
  forRoom(room) {
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
   * An event of the user's arrived. Its answer came first, unless this is a resume.
   * @param {string} room
   * @param {{seq: number, text: string}} event
   */
  confirm(room, event) {
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
   * The room's log was loaded anew, with all that was sent.
   * @param {string} room
   */
  dropSent(room) {
    this.items = this.items.filter((item) => item.room !== room || item.state !== "sent");
    this.#save();
  }

  /**
   * The server spells the room's name differently.
   * @param {string} from
   * @param {string} to
   */
  renameRoom(from, to) {
    for (const item of this.items) if (item.room === from) item.room = to;
    this.#save();
  }

  /**
   * Keys belong to a user. A message that another user sent, without an answer, may have been
   * delivered: the user has to decide.
   * @param {string} user
   */
  userChanged(user) {
    for (const item of this.items) {
      if (item.user && item.user !== user && item.state === "queued") {
        item.state = "failed";
        item.reason = "You are another user now. It may have been sent under your old name.";
      }
    }
    this.#save();
  }

  /**
   * @param {string} room
   * @param {string} reason
   */
  failRoom(room, reason) {
    for (const item of this.items) {
      if (item.room === room && item.state === "queued")
        Object.assign(item, { state: "failed", reason });
    }
    this.#save();
  }

  /**
   * Sends a room's queue one by one: if two were sent at once and only the first was refused for
   * its rate, they would change places.
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
          // Without a number it is not stored, and its event is on the way.
          if (!seq || room.last >= seq) this.discard(key);
          pause = FIRST_PAUSE_MS;
        } catch (error) {
          item.state = "queued";
          delete item.seen;
          if (!(error instanceof Refused)) throw error;
          if (TEMPORARY.has(error.code) && (error.retryMs || error.code !== "muted")) {
            await this.#wait(item, error, error.retryMs ?? pause);
            pause = Math.min(2 * pause, MAX_PAUSE_MS);
          } else {
            item.state = "failed";
            item.reason = error.message;
          }
        }
        this.#save();
      }
    } catch {
      // Lost: the next join sends it again.
    } finally {
      this.#busy.delete(room.name);
      this.#save();
    }
  }

  /** @param {Unsent} item @param {Refused} error @param {number} ms */
  async #wait(item, error, ms) {
    if (ms > SILENT_MS) Object.assign(item, { state: "held", reason: error.message });
    this.#save();
    const asked = new Promise((resolve) => this.#waits.set(item.room, () => resolve(undefined)));
    try {
      await Promise.race([this.#connection.sleep(Math.min(ms, MAX_WAIT_MS)), asked]);
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
