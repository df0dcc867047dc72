// @ts-check
/** Tells the daemon up to where rooms are read: it counts what is unread, in every tab and later. */

// What is read in one go is told once.
const PAUSE_MS = 400;

export class Marks {
  #ask;
  /** @type {Set<import("./room.js").Room>} rooms of which it is being told */
  #busy = new Set();

  /** @param {import("./chat.js").Ask} ask */
  constructor(ask) {
    this.#ask = ask;
  }

  /** @param {import("./room.js").Room} room */
  async tell(room) {
    if (this.#busy.has(room)) return;
    this.#busy.add(room);
    try {
      while (room.joined && room.marked < room.read) {
        const seq = room.read;
        await this.#ask({ do: "read", room: room.name, seq });
        room.marked = seq;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    } catch {
      // It is told with the next one.
    } finally {
      this.#busy.delete(room);
    }
  }
}
