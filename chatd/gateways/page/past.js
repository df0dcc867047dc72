// @ts-check
/** What was said before, or between: pages of a room's log, read when somebody wants to see them. */

import { message } from "./room.js";

const PAGE_MESSAGES = 50;

/** @typedef {import("./room.js").Room} Room */

export class Past {
  #ask;
  #changed;
  /** What is being read now; who wants another place waits for it. */
  #reading = Promise.resolve();

  /** @param {import("./chat.js").Ask} ask @param {() => void} changed */
  constructor(ask, changed) {
    this.#ask = ask;
    this.#changed = changed;
  }

  /** Reads one more page of what lies above. @param {Room} room */
  async older(room) {
    if (!room.more) return;
    await this.#read(room, async () =>
      room.prepend(await this.#page(room, { before: room.first })),
    );
  }

  /** Reads one more page of what lies below, where an older stretch is held. @param {Room} room */
  async newer(room) {
    const upto = room.last;
    await this.#read(room, async () =>
      room.append(await this.#page(room, { after: room.end }), upto),
    );
  }

  /** Holds what was said last, in place of an older stretch. @param {Room} room */
  async latest(room) {
    await this.#reading;
    await this.#read(room, async () => room.move(await this.#page(room, {})));
  }

  /**
   * Holds what was said around a message, if it is not held.
   * @param {Room} room
   * @param {number} seq
   */
  async around(room, seq) {
    await this.#reading;
    if (seq >= room.first && seq <= room.end) return;
    await this.#read(room, async () => {
      room.move(await this.#page(room, { before: seq + 1 }));
      const upto = room.last;
      room.append(await this.#page(room, { after: room.end }), upto);
    });
  }

  /** Gets to know a message that another one quotes. @param {Room} room @param {number} seq */
  async quoted(room, seq) {
    if (room.known.has(seq) || !room.joined) return;
    room.known.set(seq, null);
    try {
      const { events } = await this.#page(room, { before: seq + 1, limit: 1 });
      const found = events.find((/** @type {any} */ each) => each.seq === seq);
      if (found?.on === "message") room.known.set(seq, message(found));
      this.#changed();
    } catch {
      // It stays a quotation without words.
    }
  }

  /** @param {Room} room @param {Record<string, unknown>} where */
  #page(room, where) {
    const command = { do: "history", room: room.name, limit: PAGE_MESSAGES, messages: true };
    return this.#ask({ ...command, ...where });
  }

  /** Reads of a room's log, once at a time. @param {Room} room @param {() => Promise<void>} pages */
  async #read(room, pages) {
    if (!room.joined || room.loading) return;
    room.loading = true;
    this.#changed();
    // What was held stays where nothing can be read.
    this.#reading = pages().catch(() => {});
    await this.#reading;
    room.loading = false;
    this.#changed();
  }
}
