// @ts-check
/**
 * A transport for networks that block WebSocket: Socket.IO 5 over Engine.IO 4 long polling. It has
 * a WebSocket's interface, with the JSON of chatd.v1.
 */

// Relative, so that it works under a proxy's path prefix.
const PATH = "socket.io/?EIO=4&transport=polling";
const SEPARATOR = "\x1e";
// How long the final packet may take.
const GOODBYE_MS = 5_000;

/** WebSocket close codes for the codes of a connect_error. */
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
  /** Packets to be sent. @type {string[]} */
  #packets = [];
  #calls = new AbortController();

  /** @param {object} auth credentials */
  constructor(auth) {
    void this.#run(auth);
  }

  /** @param {string} frame a command */
  send(frame) {
    const { do: name, id = "", ...fields } = JSON.parse(frame);
    this.#post(`42${id}${JSON.stringify([name, fields])}`);
  }

  /** Disconnects, dropping what was not sent yet. */
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
      this.#post(`40${JSON.stringify({ ...auth, join: false })}`);
      while (this.#open) {
        for (const packet of (await this.#call()).split(SEPARATOR)) {
          this.#packet(packet);
          // As with a WebSocket's frames, the code that awaits an answer runs before the next
          // packet: events in a room count from its join on.
          await null;
        }
      }
    } catch {
      // Unreachable, refused or garbled: the connection is over.
      this.#end();
    }
  }

  /** @param {string} packet */
  #packet(packet) {
    if (!this.#open) return;
    if (packet === "2") this.#post("3");
    else if (packet.startsWith("42")) this.#event(JSON.parse(packet.slice(2)));
    else if (packet.startsWith("43")) {
      const at = packet.indexOf("[");
      this.#emit({ ...JSON.parse(packet.slice(at))[0], re: Number(packet.slice(2, at)) });
    } else if (packet.startsWith("44")) {
      const { message, data } = JSON.parse(packet.slice(2));
      this.#end(CLOSES.get(data?.code), message);
    } else if (packet === "1" || packet.startsWith("41")) this.#end();
  }

  /** @param {any[]} event */
  #event([name, ...given]) {
    const [text, about] = given;
    if (name === "chat message") this.#emit({ ...about, on: "message", text });
    else if (name !== "notice" || !given[0].do) this.#emit({ ...given[0], on: name });
    // A refusal of the credentials is dropped, because chat.js asks again. But if waiting helps,
    // start again rather than as another guest.
    else if (given[0].retry_ms && given[0].do !== "typing") this.#end();
  }

  /** @param {object} frame */
  #emit(frame) {
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

  /** As many packets as fit into a POST, at least one. */
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
