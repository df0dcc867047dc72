// @ts-check
/** Sends read marks to the server, which counts unread messages for all tabs. */

// Several messages read at once make one mark.
const PAUSE_MS = 400;

export class ReadMarks {
  #ask;
  /** @type {Set<import("./room.js").Room>} */
  #busy = new Set();

  /** @param {import("./chat.js").Ask} ask */
  constructor(ask) {
    this.#ask = ask;
  }

  /** @param {import("./room.js").Room} room */
  async send(room) {
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
      // The next mark includes this one.
    } finally {
      this.#busy.delete(room);
    }
  }
}
