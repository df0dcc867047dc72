// @ts-check
/**
 * The chat as one person sees it: the rooms we are in, what happens in them, what we do there. It
 * knows the commands and events of chatd.v1, and nothing of the page that shows it.
 */

import { Connection, Refused, why } from "./connection.js";
import { Directs } from "./directs.js";
import { Identity } from "./identity.js";
import { Marks } from "./marks.js";
import { Outbox } from "./outbox.js";
import { Past } from "./past.js";
import { Room } from "./room.js";
import { own, shared } from "./storage.js";

const PAGE_EVENTS = 100;
const PAUSE_MS = 1_000;
// A crowd's comings and goings are told as a total; the list follows at this pace.
const WHO_EVERY_MS = 10_000;

/**
 * @typedef {{room: string, members: number, unread?: number, nick?: string}} Listed
 * @typedef {{message_bytes: number}} Limits
 * @typedef {(command: Record<string, unknown>) => Promise<any>} Ask
 */

export class Chat {
  user = "";
  nick = "";
  /** Whether we are an operator. */
  op = false;
  guest = false;
  identity = new Identity();
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
  directs = new Directs();
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
      auth: () => {
        const room = this.current?.direct ? undefined : this.current?.name;
        return { ...this.identity.offer, room };
      },
      changed: () => {
        this.identity.watch(this.connection.state);
        if (this.connection.state.name !== "open") this.#left();
        changed();
      },
    });
    this.outbox = new Outbox(this.connection, changed);
    this.past = new Past(this.ask, changed);
    this.marks = new Marks(this.ask);
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
   * Asks the daemon, and again where it only says to wait. Throws Refused or Lost.
   * @type {Ask}
   */
  ask = async (command) => {
    for (;;) {
      try {
        return await this.connection.request(command);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (error.code !== "rate_limited" && error.code !== "unavailable") throw error;
        await this.connection.sleep(error.retryMs ?? PAUSE_MS);
      }
    }
  };

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
    const room = this.#made(name);
    await this.#join(room);
    if (room.refused) throw new Refused({ code: "forbidden", message: room.refused });
    this.#select(/** @type {Room} */ (this.rooms.get(room.name)));
    this.#keepRooms();
    void this.refreshList();
  }

  /** The room of somebody and us. @param {string} user @param {string} nick */
  directRoom(user, nick) {
    const name = this.directs.between(this.user, user);
    this.#met(name, nick);
    return name;
  }

  /** @param {Room} room */
  async leave(room) {
    if (room.joined && !room.direct) {
      room.joined = false;
      // Refused or lost: it is not asked for again, and that is leaving too.
      await this.connection.request({ do: "leave", room: room.name }).catch(() => {});
    }
    this.rooms.delete(room.name);
    if (room.direct) this.directs.close(room.name);
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

  /** @param {string} text @param {number} replyTo the message that it answers; 0: none */
  say(text, replyTo) {
    if (!this.current) return;
    this.outbox.add(this.current.name, text, replyTo);
    this.#send(this.current);
  }

  /** @param {string} key */
  retry(key) {
    this.outbox.retry(key);
    if (this.current) this.#send(this.current);
  }

  /** @param {Room} room @param {boolean} on whether we are writing there */
  typing(room, on) {
    if (room.joined) this.connection.tell({ do: "typing", room: room.name, on });
  }

  /**
   * Throws Refused or Lost.
   * @param {string} nick
   */
  async rename(nick) {
    const ok = await this.connection.request({ do: "nick", nick });
    this.#called(ok.nick);
  }

  /** Says in the log what could not be done. @param {unknown} error */
  tell(error) {
    if (this.current) this.note(this.current, why(error));
  }

  /** Says in a room's log what was done. @param {Room} room @param {string} text */
  note(room, text) {
    room.line("notice", text);
    this.#changed();
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
    void this.marks.tell(room);
    this.#changed();
  }

  /** @param {any} hello */
  async #begin(hello) {
    this.limits = hello.limits;
    this.#server ||= hello.server;
    this.outdated = hello.server !== this.#server;
    const identity = await this.identity.settle(hello, this.ask);
    if (!identity) {
      this.#changed();
      return;
    }
    this.user = identity.user;
    this.op = identity.op ?? false;
    this.guest = Boolean(identity.session);
    shared.set("user", this.user);
    if (identity.session) shared.set("session", identity.session);
    const kept = shared.get("nick", "");
    this.#called(identity.nick);
    this.outbox.became(this.user);
    this.#disown();
    if (identity === hello && hello.session && kept && kept !== identity.nick) {
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

  /** @param {Room} room */
  async #join(room) {
    const asked = room.name;
    const since = room.since ?? undefined;
    try {
      const command = { do: "join", room: asked, since, limit: PAGE_EVENTS, messages: true };
      const answer = await this.ask(command);
      this.#written(room, answer.room);
      if (!answer.recovered) this.outbox.renewed(room.name);
      for (const each of room.enter(answer, this.user)) this.#seen(room, each);
      if (room.direct) {
        const peer = [...room.members.values()].find(({ user }) => user !== this.user);
        this.#met(room.name, peer?.nick);
      }
      void this.marks.tell(room);
      this.#changed();
      this.#send(room);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      room.refused = error.message;
      if (room.entries.length) room.line("gap", error.message);
      this.outbox.fail(room.name, error.message);
      this.#changed();
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
      if (this.current) this.note(this.current, event.text);
      return;
    }
    if (event.on === "nick" && event.user === this.user) this.#called(event.to);
    const room = this.rooms.get(event.room) ?? this.#addressed(event);
    if (!room) return;
    if (room.direct && event.user !== this.user) this.#met(room.name, event.to ?? event.from);
    if (event.on === "message" && event.seq === undefined) {
      room.take(event, this.user);
    } else if (!room.joined) {
      return;
    } else if (typeof event.seq === "number" && event.on !== "read") {
      const taken = room.take(event, this.user);
      if (taken) this.#seen(room, taken);
    } else if (event.on === "read") {
      room.readTo(event.seq, this.user);
    } else if (event.on === "typing") {
      setTimeout(this.#changed, room.writes(event));
    } else {
      if (event.on === "left" && event.user === this.user) this.#putOut(room);
      room.presence(event);
      const now = Date.now();
      if (event.on === "presence" && room === this.current && now - this.#whoAt > WHO_EVERY_MS) {
        this.#whoAt = now;
        void this.who(room, true);
      }
    }
    this.#changed();
  }

  /** Somebody writes to us alone, for the first time here. @param {any} event */
  #addressed(event) {
    if (event.on !== "message" || !event.room.startsWith("@")) return null;
    const room = this.#room(event.room);
    this.#keepRooms();
    void this.#join(room).catch(() => {}); // Lost: the next hello joins it.
    return room;
  }

  /** Lets go of the conversations of who we were before. */
  #disown() {
    for (const [name, room] of this.rooms) {
      if (!room.direct || !this.directs.foreign(name, this.user)) continue;
      this.rooms.delete(name);
      if (this.current === room) this.current = this.#room(this.#home);
    }
    this.#keepRooms();
  }

  /** @param {Room} room */
  #putOut(room) {
    room.joined = false;
    room.refused = "You were put out of this room.";
    room.line("gap", `${room.refused} Choose it in the list to come back, if you may.`);
    this.outbox.fail(room.name, room.refused);
  }

  /** @param {Room} room @param {import("./room.js").Message} each */
  #seen(room, each) {
    if (each.user === this.user) this.outbox.shown(room.name, each);
  }

  /** @param {{rooms: Listed[]}} ok */
  #list(ok) {
    this.listed = ok.rooms;
    for (const each of ok.rooms) if (each.nick) this.#met(each.room, each.nick);
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

  /** What the other one of two is called. @param {string} name @param {string} [nick] */
  #met(name, nick) {
    if (!nick) return;
    const room = this.rooms.get(name);
    if (room) room.peer = nick;
    this.directs.met(name, nick);
  }

  /** @param {Room} room */
  #send(room) {
    if (room.joined) void this.outbox.send(room, this.user);
  }

  /** @param {string} name */
  #made(name) {
    const room = new Room(name);
    room.peer = this.directs.peer(name);
    return room;
  }

  /** @param {string} name */
  #room(name) {
    let room = this.rooms.get(name);
    if (!room) this.rooms.set(name, (room = this.#made(name)));
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
    this.directs.open(this.rooms.keys());
  }
}
