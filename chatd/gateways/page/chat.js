// @ts-check
/**
 * The chat's state for one user: their rooms and what happens there. It speaks chatd.v1 and knows
 * nothing about the page.
 */

import { Connection, Refused, explain } from "./connection.js";
import { Directs } from "./directs.js";
import { HistoryLoader } from "./history.js";
import { Identity } from "./identity.js";
import { Outbox } from "./outbox.js";
import { ReadMarks } from "./readmarks.js";
import { Room } from "./room.js";
import { own, shared } from "./storage.js";

const PAGE_EVENTS = 100;
const PAUSE_MS = 1_000;
// In a large room only the total is sent: how often the list of members is refreshed.
const WHO_EVERY_MS = 10_000;

/**
 * @typedef {{room: string, members: number, unread?: number, nick?: string}} Listed
 * @typedef {{message_bytes: number}} Limits
 * @typedef {{kind: "ban" | "mute" | "slow" | "close", room?: string, user?: string, nick?: string,
 *   network?: string, until?: string, reason?: string}} Held
 * @typedef {(command: Record<string, unknown>) => Promise<any>} Ask
 */

export class Chat {
  user = "";
  nick = "";
  /** Whether the user is an operator. */
  op = false;
  guest = false;
  identity = new Identity();
  /** @type {Limits} */
  limits = { message_bytes: Infinity };
  /** The server's version when the page was loaded. */
  #server = "";
  outdated = false;
  /** Whether the user has entered the chat on this connection. */
  ready = false;
  /** Whether the user is to choose a name, or a token, before entering. */
  asking = false;
  /** The `hello` of this connection. @type {any} */
  #greeting = null;
  /** Whether it is known who the user is on this connection. */
  #known = false;
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** @type {Room | null} */
  current = null;
  directs = new Directs();
  /** The server's latest list of rooms. @type {Listed[]} */
  listed = [];
  /** What is in force against whom, as far as is known; operators alone know it. @type {Held[]} */
  sanctions = [];

  #changed;
  #home;
  #whoAt = 0;
  /** The room from which the user was just removed. @type {Room | null} */
  #expelled = null;

  /**
   * @param {string} url
   * @param {string} home the default room
   * @param {() => void} changed called at every change; must be cheap
   */
  constructor(url, home, changed) {
    this.#changed = changed;
    this.#home = home;
    this.connection = new Connection(url, {
      hello: (hello) => void this.#hello(hello).catch(() => {}), // Lost: the next hello starts again.
      event: (event) => this.#event(event),
      probed: (ok) => this.#list(ok),
      auth: () => this.identity.credentials,
      changed: () => {
        const { state } = this.connection;
        if (state.name !== "open") this.#disconnected();
        if (this.identity.connectionChanged(state)) this.connection.retryNow();
        changed();
      },
    });
    this.identity.forgottenElsewhere = () => void this.#signedOut();
    this.identity.changedElsewhere = () => {
      if (!this.asking && !this.identity.tokenRequired) return;
      if (this.connection.state.name !== "open") this.connection.retryNow();
      else void this.#hello(this.#greeting).catch(() => {});
    };
    this.outbox = new Outbox(this.connection, changed);
    this.history = new HistoryLoader(this.ask, changed);
    this.readMarks = new ReadMarks(this.ask);
  }

  /** @param {string} asked the first room; "" for the last one */
  async start(asked) {
    this.user = shared.get("user", "");
    this.nick = shared.get("nick", "");
    const unsent = this.outbox.items.map((item) => item.room);
    for (const name of [...shared.get("rooms", []), ...unsent]) this.#room(name);
    this.current = this.#room(
      asked || own.get("current", "") || shared.get("rooms", [])[0] || this.#home,
    );
    await this.identity.askOtherTabs();
    this.connection.start();
  }

  /** Enters as the guest that the server made, or under the name that was chosen. */
  enter() {
    if (!this.asking) return;
    this.asking = false;
    shared.set("named", true);
    // Otherwise the next hello, or the one that is being answered, leads in.
    if (this.#known) void this.#enter().catch(() => {});
  }

  /**
   * Becomes the user of a token. A guest leaves first, so that nobody sees both. Throws Refused.
   * @param {string} token
   * @param {boolean} always whether the browser keeps the token when all tabs are closed
   */
  async signIn(token, always) {
    if (this.connection.state.name === "closed") {
      this.identity.keep(token, always);
      this.identity.tokenRequired = false;
      this.connection.retryNow();
      return;
    }
    const joined = await this.#leaveAll();
    let identity;
    try {
      identity = await this.connection.request({ do: "auth", token });
    } catch (error) {
      await Promise.all(joined.map((room) => this.#join(room)));
      throw error;
    }
    this.identity.keep(token, always);
    this.asking = this.identity.tokenRequired = false;
    this.#known = true;
    this.#startAnew();
    this.#become(identity);
    void this.#enter().catch(() => {}); // Lost: the next hello starts again.
  }

  /** Forgets the token, in all tabs. */
  async signOut() {
    this.identity.forget();
    await this.#signedOut();
  }

  async #signedOut() {
    await this.#leaveAll();
    this.#startAnew();
    this.connection.reconnect();
  }

  /** Forgets what the rooms were like for the previous user. */
  #startAnew() {
    for (const name of this.rooms.keys()) this.rooms.set(name, this.#newRoom(name));
    this.current = this.rooms.get(this.current?.name ?? "") ?? null;
  }

  /** Leaves the rooms, so that others see the user go at once. Returns them. */
  async #leaveAll() {
    const rooms = [...this.rooms.values()].filter((room) => room.joined && !room.direct);
    for (const room of rooms) room.joined = false;
    const asked = rooms.map((room) => this.connection.request({ do: "leave", room: room.name }));
    await Promise.allSettled(asked);
    return rooms;
  }

  /**
   * Sends a command, and again after a refusal that passes. Throws Refused or Lost.
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
   * Opens a room, or with @nick a conversation, joining it if necessary. Throws Refused.
   * @param {string} name
   * @returns {Promise<void>}
   */
  async open(name) {
    const known = this.rooms.get(name) ?? this.#conversation(name);
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
    // Shown once joined: a mistyped name leaves no trace.
    const room = this.#newRoom(name);
    await this.#join(room);
    if (room.refused) throw new Refused({ code: "forbidden", message: room.refused });
    this.#select(/** @type {Room} */ (this.rooms.get(room.name)));
    this.#keepRooms();
    void this.refreshList();
  }

  /** The open conversation with a user. @param {string} name `@` and a nick */
  #conversation(name) {
    const nick = name.slice(1).toLowerCase();
    return [...this.rooms.values()].find(
      (room) => room.direct && name.startsWith("@") && room.peer.toLowerCase() === nick,
    );
  }

  /** The room of direct messages with a user. @param {string} user @param {string} nick */
  directRoom(user, nick) {
    const name = this.directs.roomOf(this.user, user);
    this.#setPeer(name, nick);
    return name;
  }

  /** @param {Room} room */
  async leave(room) {
    if (room.joined && !room.direct) {
      room.joined = false;
      // On an error the room is not joined again, which leaves it too.
      await this.connection.request({ do: "leave", room: room.name }).catch(() => {});
    }
    this.rooms.delete(room.name);
    if (room.direct) this.directs.close(room.name);
    for (const item of this.outbox.forRoom(room.name)) this.outbox.discard(item.key);
    if (this.current === room) {
      this.current = null;
      const next = this.rooms.values().next().value;
      if (next) this.#select(next);
    }
    this.#keepRooms();
    this.#changed();
    void this.refreshList();
  }

  /** @param {string} text @param {number} replyTo a message's number, or 0 */
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

  /** @param {Room} room @param {boolean} on whether the user is typing there */
  typing(room, on) {
    if (room.joined) this.connection.send({ do: "typing", room: room.name, on });
  }

  /**
   * Throws Refused or Lost.
   * @param {string} nick
   */
  async rename(nick) {
    const ok = await this.connection.request({ do: "nick", nick });
    this.#setNick(ok.nick);
  }

  /** Shows an error in the log. @param {unknown} error */
  report(error) {
    if (this.current) this.note(this.current, explain(error));
  }

  /** Shows a notice at the end of a room's log. @param {Room} room @param {string} text */
  note(room, text) {
    room.addLine("notice", text);
    this.#changed();
  }

  /** Loads the next page of members, or the first one. @param {Room} room @param {boolean} anew */
  async loadMembers(room, anew) {
    const after = anew ? undefined : [...room.members.values()].at(-1)?.nick;
    try {
      room.applyMembers(await this.connection.request({ do: "who", room: room.name, after }), anew);
      this.#changed();
    } catch {
      // Keep the old list.
    }
  }

  /** Reads what is in force, if the user is an operator. */
  async refreshSanctions() {
    if (!this.op) return;
    try {
      this.sanctions = (await this.connection.request({ do: "bans" })).bans;
      this.#changed();
    } catch {
      // Keep the old list.
    }
  }

  /**
   * Whether something is in force in a room, or against a user there or everywhere.
   * @param {Held["kind"]} kind @param {Room} room @param {string} [user]
   */
  isHeld(kind, room, user) {
    return this.sanctions.some(
      (one) =>
        one.kind === kind &&
        one.user === user &&
        (one.room === room.name || (user && !one.room)) &&
        (!one.until || Date.parse(one.until) > Date.now()),
    );
  }

  async refreshList() {
    try {
      this.#list(await this.connection.request({ do: "rooms" }));
    } catch {
      // Keep the old list.
    }
  }

  /** The user has seen all of a room. @param {Room} room */
  markRead(room) {
    if (!room.joined || !room.markRead()) return;
    void this.readMarks.send(room);
    this.#changed();
  }

  /** @param {any} hello */
  async #hello(hello) {
    this.#greeting = hello;
    this.limits = hello.limits;
    this.#server ||= hello.server;
    this.outdated = hello.server !== this.#server;
    this.#known = false;
    const identity = await this.identity.authenticate(hello, this.ask);
    if (!identity) {
      this.#changed();
      return;
    }
    const kept = shared.get("nick", "");
    this.#become(identity);
    if (identity === hello && hello.session && kept && kept !== identity.nick) {
      // A new guest keeps the old name, if it is free.
      await this.rename(kept).catch((error) => {
        if (!(error instanceof Refused)) throw error;
      });
    }
    this.#known = true;
    // Others see no guest who has not been asked, or whose token was refused.
    this.asking = this.guest && (!shared.get("named", false) || Boolean(this.identity.error));
    if (this.asking) this.#changed();
    else await this.#enter();
  }

  /** @param {any} identity */
  #become(identity) {
    this.user = identity.user;
    this.op = identity.op ?? false;
    this.guest = Boolean(identity.session);
    shared.set("user", this.user);
    if (identity.session) shared.set("session", identity.session);
    this.#setNick(identity.nick);
    this.outbox.userChanged(this.user);
    this.#dropForeignDirects();
  }

  /** Joins the rooms. */
  async #enter() {
    this.ready = true;
    const current = this.current;
    const rooms = [...this.rooms.values()].sort(
      (a, b) => Number(b === current) - Number(a === current),
    );
    await Promise.all(rooms.map((room) => this.#join(room)));
    this.connection.resetBackoff();
    await Promise.all([this.refreshList(), this.refreshSanctions()]);
  }

  /** @param {Room} room */
  async #join(room) {
    const asked = room.name;
    const since = room.position ?? undefined;
    try {
      const command = { do: "join", room: asked, since, limit: PAGE_EVENTS, messages: true };
      const answer = await this.ask(command);
      this.#setName(room, answer.room);
      if (!answer.recovered) this.outbox.dropSent(room.name);
      for (const each of room.applyJoin(answer, this.user)) this.#confirm(room, each);
      if (room.direct) {
        const peer = [...room.members.values()].find(({ user }) => user !== this.user);
        this.#setPeer(room.name, peer?.nick);
      }
      void this.readMarks.send(room);
      this.#changed();
      this.#send(room);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const known = room.refused === error.message;
      room.expel(error.message);
      if (room.entries.length && !known) room.addLine("gap", error.message);
      this.outbox.failRoom(room.name, error.message);
      this.#changed();
    }
  }

  /** Takes the server's spelling of a room's name. @param {Room} room @param {string} name */
  #setName(room, name) {
    const asked = room.name;
    if (asked === name && this.rooms.get(name) === room) return;
    this.rooms.delete(asked);
    room.name = name;
    // Of two spellings of one room, the latest answer counts.
    if (this.current && (this.current.name === name || this.current.name === asked))
      this.current = room;
    this.rooms.set(name, room);
    this.outbox.renameRoom(asked, name);
    this.#keepRooms();
  }

  /** @param {any} event */
  #event(event) {
    if (event.on === "notice") {
      if (this.#expelled) this.#explainRemoval(this.#expelled, event.text);
      else if (this.current) this.note(this.current, event.text);
      this.#changed();
      return;
    }
    if (event.on === "epoch") {
      for (const room of this.rooms.values()) room.renew(event.epoch);
      return;
    }
    if (event.on === "nick" && event.user === this.user) this.#setNick(event.to);
    const room = this.rooms.get(event.room) ?? this.#incomingDirect(event);
    if (!room) return;
    if (room.direct && event.user !== this.user) this.#setPeer(room.name, event.to ?? event.from);
    if (event.on === "message" && event.seq === undefined) {
      room.apply(event, this.user);
    } else if (!room.joined) {
      return;
    } else if (typeof event.seq === "number" && event.on !== "read") {
      const taken = room.apply(event, this.user);
      if (taken) this.#confirm(room, taken);
    } else if (event.on === "read") {
      room.applyRead(event.seq, this.user);
    } else if (event.on === "typing") {
      setTimeout(this.#changed, room.applyTyping(event));
    } else {
      if (event.on === "left" && event.user === this.user) this.#removed(room);
      else room.applyPresence(event);
      const now = Date.now();
      if (event.on === "presence" && room === this.current && now - this.#whoAt > WHO_EVERY_MS) {
        this.#whoAt = now;
        void this.loadMembers(room, true);
      }
    }
    this.#changed();
  }

  /** The first direct message of a conversation opens it. @param {any} event */
  #incomingDirect(event) {
    if (event.on !== "message" || !event.room.startsWith("@")) return null;
    const room = this.#room(event.room);
    this.#keepRooms();
    void this.#join(room).catch(() => {}); // Lost: the next hello joins it.
    return room;
  }

  /** Drops the direct messages of the previous user. */
  #dropForeignDirects() {
    for (const [name, room] of this.rooms) {
      if (!room.direct || !this.directs.isForeign(name, this.user)) continue;
      this.rooms.delete(name);
      if (this.current === room) this.current = this.#room(this.#home);
    }
    this.#keepRooms();
  }

  /** A notice with the reason follows. @param {Room} room */
  #removed(room) {
    room.expel("You were removed from this room.");
    this.outbox.failRoom(room.name, room.refused);
    this.#expelled = room;
  }

  /** @param {Room} room @param {string} why */
  #explainRemoval(room, why) {
    room.refused = why;
    room.addLine("gap", `${why}\nSelect the room in the list to rejoin.`);
    this.#expelled = null;
  }

  /** @param {Room} room @param {import("./room.js").Message} each */
  #confirm(room, each) {
    if (each.user === this.user) this.outbox.confirm(room.name, each);
  }

  /** @param {{rooms: Listed[]}} ok */
  #list(ok) {
    this.listed = ok.rooms;
    for (const each of ok.rooms) if (each.nick) this.#setPeer(each.room, each.nick);
    this.#changed();
  }

  #disconnected() {
    this.ready = this.#known = false;
    this.#expelled = null;
    for (const room of this.rooms.values()) room.joined = false;
  }

  /** @param {string} nick */
  #setNick(nick) {
    this.nick = nick;
    shared.set("nick", nick);
    this.#changed();
  }

  /** Notes the nick of the other user. @param {string} name @param {string} [nick] */
  #setPeer(name, nick) {
    if (!nick) return;
    const room = this.rooms.get(name);
    if (room) room.peer = nick;
    this.directs.setNick(name, nick);
  }

  /** @param {Room} room */
  #send(room) {
    if (room.joined) void this.outbox.send(room, this.user);
  }

  /** @param {string} name */
  #newRoom(name) {
    const room = new Room(name);
    room.peer = this.directs.nickOf(name);
    return room;
  }

  /** @param {string} name */
  #room(name) {
    let room = this.rooms.get(name);
    if (!room) this.rooms.set(name, (room = this.#newRoom(name)));
    return room;
  }

  /** @param {Room} room */
  #select(room) {
    if (this.current) this.current.follows = true;
    this.current = room;
    own.set("current", room.name);
    void this.refreshSanctions();
    this.#changed();
  }

  #keepRooms() {
    shared.set("rooms", [...this.rooms.keys()]);
    this.directs.reopen(this.rooms.keys());
  }
}
