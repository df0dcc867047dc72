// @ts-check
/**
 * The chat as one guest sees it: who we are, the rooms we are in, what happens in them. It knows
 * the commands and events of chatd.v1, and nothing of the page that shows it.
 */

import { Connection, Refused } from "./connection.js";
import { Outbox } from "./outbox.js";
import { Room } from "./room.js";
import { own, shared } from "./storage.js";

const PAGE_EVENTS = 100;
const HISTORY_EVENTS = 50;
const PAUSE_MS = 1_000;
// A crowd's comings and goings are told as a total; the list follows at this pace.
const WHO_EVERY_MS = 10_000;

/**
 * @typedef {{room: string, members: number}} Listed
 * @typedef {{message_bytes: number}} Limits
 */

export class Chat {
  user = "";
  nick = "";
  /** @type {Limits} */
  limits = { message_bytes: Infinity };
  /** What the server called itself when the page was loaded, and since. */
  #server = "";
  outdated = false;
  /** Whether the daemon knows, on this connection, who we are. */
  ready = false;
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** @type {Room | null} */
  current = null;
  /** Every room there is, as last told. @type {Listed[]} */
  listed = [];

  #changed;
  #home;
  #whoAt = 0;

  /**
   * @param {string} url
   * @param {string} home the room of who asks for none
   * @param {() => void} changed called at every change; it only notes it
   */
  constructor(url, home, changed) {
    this.#changed = changed;
    this.#home = home;
    this.connection = new Connection(url, {
      hello: (hello) => void this.#begin(hello).catch(() => {}), // Lost: the next hello begins anew.
      event: (event) => this.#happened(event),
      probed: (ok) => this.#list(ok),
      auth: () => ({ session: shared.get("session", null), room: this.current?.name }),
      changed: () => {
        if (this.connection.state.name !== "open") this.#left();
        changed();
      },
    });
    this.outbox = new Outbox(this.connection, changed);
  }

  /** @param {string} asked the room to begin with; "" for none in particular */
  start(asked) {
    this.user = shared.get("user", "");
    this.nick = shared.get("nick", "");
    const unsent = this.outbox.items.map((item) => item.room);
    for (const name of [...shared.get("rooms", []), ...unsent]) this.#room(name);
    this.current = this.#room(
      asked || own.get("current", "") || shared.get("rooms", [])[0] || this.#home,
    );
    this.connection.start();
  }

  /**
   * Opens a room: joins it if need be. Throws Refused where the daemon will not.
   * @param {string} name
   * @returns {Promise<void>}
   */
  async open(name) {
    const known = this.rooms.get(name);
    if (known) {
      this.#select(known);
      if (known.refused && this.ready) await this.#join(known);
      return;
    }
    if (!this.ready) {
      this.#select(this.#room(name));
      this.#keepRooms();
      return;
    }
    // It is shown once it is there: a mistyped name leaves no trace.
    const room = new Room(name);
    await this.#join(room);
    if (room.refused) throw new Refused({ code: "forbidden", message: room.refused });
    this.#select(/** @type {Room} */ (this.rooms.get(room.name)));
    this.#keepRooms();
    void this.refreshList();
  }

  /** @param {Room} room */
  async leave(room) {
    if (room.joined) {
      room.joined = false;
      // Refused or lost: it is not asked for again, and that is leaving too.
      await this.connection.request({ do: "leave", room: room.name }).catch(() => {});
    }
    this.rooms.delete(room.name);
    for (const item of this.outbox.of(room.name)) this.outbox.discard(item.key);
    if (this.current === room) {
      this.current = null;
      const next = this.rooms.values().next().value;
      if (next) this.#select(next);
    }
    this.#keepRooms();
    this.#changed();
    void this.refreshList();
  }

  /** @param {string} text */
  say(text) {
    if (!this.current) return;
    this.outbox.add(this.current.name, text);
    this.#send(this.current);
  }

  /** @param {string} key */
  retry(key) {
    this.outbox.retry(key);
    if (this.current) this.#send(this.current);
  }

  /**
   * Throws Refused or Lost.
   * @param {string} nick
   */
  async rename(nick) {
    const ok = await this.connection.request({ do: "nick", nick });
    this.#called(ok.nick);
  }

  /** Reads one more page of what lies above. @param {Room} room */
  async older(room) {
    if (!room.joined || !room.more || room.loading) return;
    room.loading = true;
    this.#changed();
    try {
      const command = { do: "history", room: room.name, before: room.first, limit: HISTORY_EVENTS };
      room.prepend(await this.connection.request(command));
    } catch (error) {
      // Not at once again: the view asks as long as the top is in sight.
      if (error instanceof Refused)
        await this.connection.sleep(error.retryMs ?? PAUSE_MS).catch(() => {});
    } finally {
      room.loading = false;
      this.#changed();
    }
  }

  /** One more page of members, or the first one again. @param {Room} room @param {boolean} anew */
  async who(room, anew) {
    const after = anew ? undefined : [...room.members.values()].at(-1)?.nick;
    try {
      room.who(await this.connection.request({ do: "who", room: room.name, after }), anew);
      this.#changed();
    } catch {
      // The list stays as it was.
    }
  }

  async refreshList() {
    try {
      this.#list(await this.connection.request({ do: "rooms" }));
    } catch {
      // The list stays as it was.
    }
  }

  /** What is there of a room was looked at. @param {Room} room */
  read(room) {
    if (!room.joined || !room.markRead()) return;
    const marks = shared.get("read", /** @type {Record<string, unknown>} */ ({}));
    shared.set("read", { ...marks, [room.name]: { epoch: room.epoch, seq: room.read } });
    this.#changed();
  }

  /** @param {any} hello */
  async #begin(hello) {
    this.limits = hello.limits;
    this.#server ||= hello.server;
    this.outdated = hello.server !== this.#server;
    const identity = await this.#authenticate(hello);
    this.user = identity.user;
    shared.set("user", this.user);
    shared.set("session", identity.session);
    const kept = shared.get("nick", "");
    this.#called(identity.nick);
    this.outbox.became(this.user);
    if (identity === hello && kept && kept !== identity.nick) {
      // A new guest by the old name, if nobody took it.
      await this.rename(kept).catch((error) => {
        if (!(error instanceof Refused)) throw error;
      });
    }
    this.ready = true;
    const current = this.current;
    const rooms = [...this.rooms.values()].sort(
      (a, b) => Number(b === current) - Number(a === current),
    );
    await Promise.all(rooms.map((room) => this.#join(room)));
    // By polling one begins in a room; where ours was refused, it is another.
    const room = hello.joined?.room;
    if (room && !this.rooms.has(room)) await this.connection.request({ do: "leave", room });
    this.connection.settled();
    await this.refreshList();
  }

  /**
   * All tabs are one guest: the stored secret wins over the one this connection was greeted with.
   * @param {any} hello
   */
  async #authenticate(hello) {
    let refused = null;
    for (;;) {
      const session = shared.get("session", null);
      // Another tab may have stored a new one meanwhile.
      if (!session || session === refused) return hello;
      try {
        return await this.connection.request({ do: "auth", session });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (error.code === "rate_limited" || error.code === "unavailable") {
          await this.connection.sleep(error.retryMs ?? PAUSE_MS);
        } else {
          refused = session;
        }
      }
    }
  }

  /** @param {Room} room */
  async #join(room) {
    const read = shared.get("read", /** @type {Record<string, any>} */ ({}))[room.name] ?? null;
    for (;;) {
      const asked = room.name;
      const since = room.since ?? undefined;
      try {
        const answer = await this.connection.request({
          do: "join",
          room: asked,
          since,
          limit: PAGE_EVENTS,
        });
        this.#written(room, answer.room);
        if (!answer.recovered) this.outbox.renewed(room.name);
        for (const message of room.enter(answer, read, this.user)) this.#seen(room, message);
        this.#changed();
        this.#send(room);
        return;
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (error.code === "rate_limited" || error.code === "unavailable") {
          await this.connection.sleep(error.retryMs ?? PAUSE_MS);
          continue;
        }
        room.refused = error.message;
        this.outbox.fail(room.name, error.message);
        this.#changed();
        return;
      }
    }
  }

  /** The daemon writes a room as it was first written. @param {Room} room @param {string} name */
  #written(room, name) {
    const asked = room.name;
    if (asked === name && this.rooms.get(name) === room) return;
    this.rooms.delete(asked);
    room.name = name;
    // Two ways to write one room: the latter join's answer is the one that counts.
    if (this.current && (this.current.name === name || this.current.name === asked))
      this.current = room;
    this.rooms.set(name, room);
    this.outbox.renamed(asked, name);
    this.#keepRooms();
  }

  /** @param {any} event */
  #happened(event) {
    if (event.on === "notice") {
      this.current?.line("notice", event.text);
      this.#changed();
      return;
    }
    if (event.on === "nick" && event.user === this.user) this.#called(event.to);
    const room = this.rooms.get(event.room);
    if (!room?.joined) return;
    if (typeof event.seq === "number") {
      const message = room.take(event, this.user);
      if (message) this.#seen(room, message);
    } else {
      room.presence(event);
      const now = Date.now();
      if (event.on === "presence" && room === this.current && now - this.#whoAt > WHO_EVERY_MS) {
        this.#whoAt = now;
        void this.who(room, true);
      }
    }
    this.#changed();
  }

  /** @param {Room} room @param {import("./room.js").Message} message */
  #seen(room, message) {
    if (message.user === this.user) this.outbox.shown(room.name, message);
  }

  /** @param {{rooms: Listed[]}} ok */
  #list(ok) {
    this.listed = ok.rooms;
    this.#changed();
  }

  #left() {
    this.ready = false;
    for (const room of this.rooms.values()) room.joined = false;
  }

  /** @param {string} nick */
  #called(nick) {
    this.nick = nick;
    shared.set("nick", nick);
    this.#changed();
  }

  /** @param {Room} room */
  #send(room) {
    if (room.joined) void this.outbox.send(room, this.user);
  }

  /** @param {string} name */
  #room(name) {
    let room = this.rooms.get(name);
    if (!room) this.rooms.set(name, (room = new Room(name)));
    return room;
  }

  /** @param {Room} room */
  #select(room) {
    if (this.current) this.current.follows = true;
    this.current = room;
    own.set("current", room.name);
    this.#changed();
  }

  #keepRooms() {
    shared.set("rooms", [...this.rooms.keys()]);
  }
}
