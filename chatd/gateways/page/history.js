// @ts-check
/** Loads pages of a room's log on demand. */

import { message } from "./room.js";

const PAGE_MESSAGES = 50;

/** @typedef {import("./room.js").Room} Room */

export class HistoryLoader {
  #ask;
  #changed;
  /** What is being loaded. @type {WeakMap<Room, Promise<void>>} */
  #loading = new WeakMap();

  /** @param {import("./chat.js").Ask} ask @param {() => void} changed */
  constructor(ask, changed) {
    this.#ask = ask;
    this.#changed = changed;
  }

  /** Loads the page before the entries. @param {Room} room */
  async older(room) {
    if (!room.more) return;
    await this.#load(room, async () =>
      room.prepend(await this.#page(room, { before: room.first })),
    );
  }

  /** Loads the page after the entries. @param {Room} room */
  async newer(room) {
    const upto = room.last;
    await this.#load(room, async () =>
      room.append(await this.#page(room, { after: room.end }), upto),
    );
  }

  /** Replaces the entries with the latest page. @param {Room} room */
  async latest(room) {
    while (room.loading) await this.#loading.get(room);
    await this.#load(room, async () => room.replace(await this.#page(room, {})));
  }

  /**
   * Replaces the entries with those around a message, unless it is there.
   * @param {Room} room
   * @param {number} seq
   */
  async around(room, seq) {
    while (room.loading) await this.#loading.get(room);
    if (seq >= room.first && seq <= room.end) return;
    await this.#load(room, async () => {
      room.replace(await this.#page(room, { before: seq + 1 }));
      const upto = room.last;
      room.append(await this.#page(room, { after: room.end }), upto);
    });
  }

  /** Loads a quoted message. @param {Room} room @param {number} seq */
  async quoted(room, seq) {
    if (room.messages.has(seq) || !room.joined) return;
    room.messages.set(seq, null);
    try {
      const { events } = await this.#page(room, { before: seq + 1, limit: 1 });
      const found = events.find((/** @type {any} */ each) => each.seq === seq);
      if (found?.on === "message") room.messages.set(seq, message(found));
      this.#changed();
    } catch {
      // The quote stays without text.
    }
  }

  /** @param {Room} room @param {Record<string, unknown>} where */
  #page(room, where) {
    const command = { do: "history", room: room.name, limit: PAGE_MESSAGES, messages: true };
    return this.#ask({ ...command, ...where });
  }

  /** Loads pages, unless that is being done. @param {Room} room @param {() => Promise<void>} pages */
  async #load(room, pages) {
    if (!room.joined || room.loading) return;
    room.loading = true;
    this.#changed();
    // On an error the entries stay as they are.
    const loading = pages().catch(() => {});
    this.#loading.set(room, loading);
    await loading;
    room.loading = false;
    this.#changed();
  }
}
