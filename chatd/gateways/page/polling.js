// @ts-check
/**
 * A line to the daemon where no WebSocket passes: Engine.IO 4 by long polling, and on it Socket.IO
 * 5. Its face is that of a WebSocket which speaks chatd.v1: the same JSON goes in and comes out.
 */

// Relative, so that it also works under a path of a proxy's.
const PATH = "socket.io/?EIO=4&transport=polling";
const SEPARATOR = "\x1e";
// Who does not take the goodbye in this time goes without it.
const GOODBYE_MS = 5_000;

/** What a WebSocket would be closed with, by the code with which Socket.IO lets nobody in. */
const CLOSES = new Map([
  ["banned", 4501],
  ["unauthorized", 4502],
]);
const ABNORMAL = 1006;

const encoder = new TextEncoder();

export class Polling {
  /** @type {((event: {data: string}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number, reason: string}) => void) | null} */
  onclose = null;

  #url = PATH;
  #most = Infinity;
  #open = true;
  #posting = false;
  /** Packets that wait for their POST. @type {string[]} */
  #packets = [];
  #calls = new AbortController();

  /** @param {object} auth who we are, where we begin */
  constructor(auth) {
    void this.#run(auth);
  }

  /** @param {string} frame a command; with an id, it is acknowledged */
  send(frame) {
    const { do: name, id = "", ...fields } = JSON.parse(frame);
    this.#post(`42${id}${JSON.stringify([name, fields])}`);
  }

  /** Goodbye, in place of what was not sent yet. */
  close() {
    if (!this.#open) return;
    this.#open = false;
    if (this.#url === PATH) {
      this.#calls.abort();
      return;
    }
    setTimeout(() => this.#calls.abort(), GOODBYE_MS);
    this.#packets = [];
    this.#post("1");
  }

  /** @param {object} auth */
  async #run(auth) {
    try {
      const { sid, maxPayload } = JSON.parse((await this.#call()).slice(1));
      this.#url += `&sid=${encodeURIComponent(sid)}`;
      this.#most = maxPayload;
      this.#post(`40${JSON.stringify({ ...auth, limit: 0 })}`);
      while (this.#open) {
        for (const packet of (await this.#call()).split(SEPARATOR)) {
          this.#take(packet);
          // Who waited for an answer goes on before the next packet, as with a WebSocket's frames:
          // what happens in a room counts from the moment we are in it.
          await null;
        }
      }
    } catch {
      // Unreachable, refused or nonsense: in each case this line is over.
      this.#end();
    }
  }

  /** @param {string} packet */
  #take(packet) {
    if (!this.#open) return;
    if (packet === "2") this.#post("3");
    else if (packet.startsWith("42")) this.#told(JSON.parse(packet.slice(2)));
    else if (packet.startsWith("43")) {
      const at = packet.indexOf("[");
      this.#say({ ...JSON.parse(packet.slice(at))[0], re: Number(packet.slice(2, at)) });
    } else if (packet.startsWith("44")) {
      const { message, data } = JSON.parse(packet.slice(2));
      this.#end(CLOSES.get(data?.code), message);
    } else if (packet === "1" || packet.startsWith("41")) this.#end();
  }

  /** @param {any[]} event */
  #told([name, ...given]) {
    const [text, about] = given;
    if (name === "chat message") this.#say({ ...about, on: "message", text });
    else if (name !== "notice" || !given[0].do) this.#say({ ...given[0], on: name });
    // What was not granted at the beginning is asked for again, by who knows what to do about it;
    // but where waiting helps, another guest or room would be a wrong beginning.
    else if (given[0].retry_ms && given[0].do !== "typing") this.#end();
  }

  /** @param {object} frame */
  #say(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** @param {string} packet */
  #post(packet) {
    this.#packets.push(packet);
    if (!this.#posting) void this.#flush();
  }

  async #flush() {
    this.#posting = true;
    try {
      while (this.#packets.length) await this.#call({ method: "POST", body: this.#payload() });
    } catch {
      this.#end();
    }
    this.#posting = false;
  }

  /** Takes as many packets as a POST may hold, and at least one. */
  #payload() {
    let count = 0;
    let size = 0;
    for (const packet of this.#packets) {
      size += encoder.encode(packet).length + SEPARATOR.length;
      if (count && size > this.#most) break;
      count += 1;
    }
    return this.#packets.splice(0, count).join(SEPARATOR);
  }

  /** @param {RequestInit} [init] */
  async #call(init) {
    const { signal } = this.#calls;
    const answer = await fetch(this.#url, { ...init, cache: "no-store", signal });
    if (!answer.ok) throw new Error(`${answer.status}`);
    return await answer.text();
  }

  #end(code = ABNORMAL, reason = "") {
    this.#calls.abort();
    if (!this.#open) return;
    this.#open = false;
    this.onclose?.({ code, reason });
  }
}
