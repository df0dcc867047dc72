// @ts-check
/** A room's state: a part of its log, its members, what was read. */

import { Palette } from "./palette.js";

// How many entries are kept, and so are elements of the page: those around what is in view.
// Scrolling loads the others again.
const MAX_ENTRIES = 400;
// How many lines wait for the end of the log to be shown again.
const MAX_WAITING_LINES = 20;
// How many presence events share a line.
const MAX_PARTS = 4;
// Typing is announced again every few seconds.
const TYPING_MS = 6_000;

/** @type {Record<string, string>} */
const LEFT = { kicked: "was kicked", banned: "was banned" };

/**
 * @typedef {object} Message
 * @property {"message"} kind
 * @property {number} seq 0 if it is not stored
 * @property {number} at
 * @property {string} user
 * @property {string} nick
 * @property {string} text
 * @property {number} replyTo a number, or 0
 * @property {number} edited the time, or 0
 * @property {boolean} deleted
 *
 * @typedef {{kind: "line", seq: number, at: number, tone: "presence" | "notice" | "gap" | "topic", parts: string[]}} Line
 * @typedef {Message | Line} Entry
 * @typedef {{nick: string, user: string, op: boolean}} Member
 */

/** @param {any} event @returns {Message} */
export function message(event) {
  const { seq = 0, user, from: nick, text = "", reply_to: replyTo = 0, deleted = false } = event;
  const edited = event.edited ? Date.parse(event.edited) : 0;
  const at = Date.parse(event.at);
  return { kind: "message", seq, at, user, nick, text, replyTo, edited, deleted };
}

/**
 * @param {any} event
 * @returns {Entry | null} null for an event that is not shown itself
 */
function entry(event) {
  if (event.on === "message") return message(event);
  if (event.on !== "topic") return null;
  const change = event.text ? `set the topic: ${event.text}` : "removed the topic";
  const parts = [`${event.from} ${change}`];
  return { kind: "line", seq: event.seq, at: Date.parse(event.at), tone: "topic", parts };
}

/** @param {string} user */
function isGuest(user) {
  // As in chatd/chat/sessions.py: no other user's id looks like this.
  return /^g[a-z2-7]{16}$/.test(user);
}

export class Room {
  /** Whether it is joined on this connection. */
  joined = false;
  /** Why the join was refused, or "". */
  refused = "";
  /** The other user's nick, in direct messages. */
  peer = "";
  topic = "";
  maySetTopic = false;
  epoch = "";
  /** The last number received, or 0. */
  last = 0;
  /** @type {Entry[]} */
  entries = [];
  /** Notices that came while `entries` did not reach the end. @type {Line[]} */
  #waiting = [];
  palette = new Palette();
  /** `entries` is complete between these numbers. */
  first = 1;
  end = 0;
  /** Messages in `entries` or quoted there, by number; null while unknown. */
  /** @type {Map<number, Message | null>} */
  messages = new Map();
  /** Whether the log has earlier entries. */
  more = false;
  loading = false;
  /** Whether the end is in view. */
  follows = true;
  /** @type {Map<string, Member>} */
  members = new Map();
  count = 0;
  /** @type {Map<string, {nick: string, until: number}>} */
  #typing = new Map();
  /** The last number read, in any tab, and the last one sent to the server. */
  read = 0;
  marked = 0;
  unread = 0;
  /** Up to here the server has counted unread messages. */
  #countedTo = 0;
  /** The first number below the "New" line, or 0. */
  divider = 0;

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  /** Whether it is a room of direct messages. */
  get direct() {
    return this.name.startsWith("@");
  }

  /** The name to show. */
  get label() {
    return this.direct ? this.peer || "…" : this.name;
  }

  /** Whether messages here are stored: not those between two guests. */
  get stored() {
    return !(this.direct && this.name.slice(1).split(",").every(isGuest));
  }

  get position() {
    return this.epoch ? { epoch: this.epoch, seq: this.last } : null;
  }

  /** Goes on under another epoch, whose numbers continue. @param {string} epoch */
  renew(epoch) {
    if (this.epoch) this.epoch = epoch;
  }

  /** Whether `entries` reaches the end of the log. */
  get atEnd() {
    return this.end === this.last;
  }

  /**
   * Applies the answer to `join`. Returns its new messages.
   * @param {any} answer
   * @param {string} me
   */
  applyJoin(answer, me) {
    const fresh = !this.epoch;
    if (!answer.recovered) {
      this.entries = this.entries.filter((each) => each.kind === "message" && !each.seq);
      this.messages.clear();
      this.last = this.end = this.read = this.divider = 0;
      this.unread = this.entries.filter(
        (each) => each.kind === "message" && each.user !== me,
      ).length;
      this.marked = 0;
      this.first = answer.events[0]?.seq ?? answer.seq + 1;
      // Retention may have removed earlier entries; `history` will tell.
      this.more = answer.events.length > 0 && this.first > 1;
    }
    this.joined = true;
    this.refused = "";
    this.epoch = answer.epoch;
    this.topic = answer.topic;
    this.maySetTopic = answer.may_set_topic;
    this.#setMembers(answer.members, answer.member_count);
    if (!answer.recovered && !fresh)
      this.addLine("gap", "Reconnected, but some messages may be missing. These are the latest.");
    if (answer.read >= this.read) {
      this.read = this.marked = answer.read;
      this.unread = answer.unread;
      this.#countedTo = answer.seq;
    } else if (fresh && !this.direct) {
      // A room that is new to the user has nothing unread.
      this.read = answer.seq;
    }
    const taken = answer.events.map((/** @type {any} */ event) => this.apply(event, me));
    if (!answer.recovered && answer.events.length === 0) this.last = this.end = answer.seq;
    return taken.filter(Boolean);
  }

  /**
   * Applies an event of the log, once, or a message that is not stored.
   * @param {any} event
   * @param {string} me
   * @returns {Message | null} the message, if it is a new one
   */
  apply(event, me) {
    const { seq = 0 } = event;
    if (seq && seq <= this.last) return null;
    // While older entries are in view, they stay: scrolling down loads the newest again.
    const keeps = seq > 0 && !this.follows && this.entries.length >= MAX_ENTRIES;
    const appends = this.atEnd && !keeps;
    if (seq) this.last = seq;
    if (seq && appends) this.end = seq;
    this.#typing.delete(event.user);
    this.#change(event);
    const taken = entry(event);
    if (!taken) return null;
    if (appends) this.#append(taken);
    if (taken.kind !== "message") return null;
    const counted = seq && (seq <= this.read || seq <= this.#countedTo);
    if (taken.user !== me && !taken.deleted && !counted) this.unread += 1;
    return taken;
  }

  /**
   * Adds a page of earlier entries.
   * @param {{epoch: string, events: any[], more: boolean}} page
   */
  prepend(page) {
    if (page.epoch !== this.epoch) return;
    const older = page.events.filter((event) => event.seq < this.first);
    const entries = /** @type {Entry[]} */ (older.map(entry).filter(Boolean));
    for (const each of entries) this.#index(each);
    this.entries.unshift(...entries);
    this.first = older[0]?.seq ?? this.first;
    this.more = page.more && older.length > 0;
    const gone = this.entries.splice(MAX_ENTRIES);
    this.#forget(gone);
    const next = gone.find((each) => each.seq);
    if (next) this.end = next.seq - 1;
  }

  /**
   * Adds a page of later entries.
   * @param {{epoch: string, events: any[]}} page
   * @param {number} upto the last number when it was requested
   */
  append(page, upto) {
    if (page.epoch !== this.epoch) return;
    for (const event of page.events) {
      if (event.seq <= this.end) continue;
      if (event.seq > this.last) this.#change(event);
      this.end = event.seq;
      const each = entry(event);
      if (each) this.#append(each);
    }
    if (!page.events.length) this.end = Math.max(this.end, upto);
    this.last = Math.max(this.last, this.end);
    if (this.atEnd) this.entries.push(...this.#waiting.splice(0));
  }

  /**
   * Replaces the entries with a page from elsewhere in the log.
   * @param {{epoch: string, events: any[], more: boolean}} page
   */
  replace(page) {
    if (page.epoch !== this.epoch || !page.events.length) return;
    this.entries = [];
    this.messages.clear();
    this.first = page.events[0].seq;
    this.end = this.first - 1;
    this.more = page.more;
    this.append(page, 0);
  }

  /**
   * @param {Line["tone"]} tone
   * @param {string} text
   */
  addLine(tone, text) {
    const at = Date.now();
    if (!this.atEnd || (!this.follows && this.entries.length >= MAX_ENTRIES)) {
      if (tone !== "presence")
        this.#waiting.push({ kind: "line", seq: 0, at, tone, parts: [text] });
      this.#waiting.splice(0, this.#waiting.length - MAX_WAITING_LINES);
      return;
    }
    const before = this.entries.at(-1);
    if (
      before?.kind === "line" &&
      before.tone === tone &&
      tone === "presence" &&
      before.parts.length < MAX_PARTS
    ) {
      // A new object, because the view caches an element for each.
      this.entries[this.entries.length - 1] = { ...before, at, parts: [...before.parts, text] };
    } else {
      this.entries.push({ kind: "line", seq: 0, at, tone, parts: [text] });
    }
    this.#trim();
  }

  /** The user was removed, or may not join. @param {string} why */
  expel(why) {
    this.joined = false;
    this.refused = why;
    this.members.clear();
    this.count = 0;
    this.#typing.clear();
  }

  /** @param {any} event joined, left, nick or presence */
  applyPresence(event) {
    const known = this.members.get(event.user);
    switch (event.on) {
      case "joined":
        if (known) break;
        this.members.set(event.user, { nick: event.nick, user: event.user, op: event.op });
        this.count += 1;
        this.addLine("presence", `${event.nick} joined`);
        break;
      case "left":
        this.members.delete(event.user);
        this.#typing.delete(event.user);
        this.count = Math.max(this.count - 1, this.members.size);
        this.addLine("presence", `${event.nick} ${LEFT[event.reason] ?? "left"}`);
        break;
      case "nick":
        if (known) this.members.set(event.user, { ...known, nick: event.to });
        this.addLine("presence", `${event.from} is now ${event.to}`);
        break;
      case "presence":
        this.count = event.total;
        break;
    }
  }

  /**
   * Applies a page of `who`.
   * @param {{members: Member[], member_count: number}} page
   * @param {boolean} anew whether it is the first page
   */
  applyMembers(page, anew) {
    if (anew) this.#setMembers(page.members, page.member_count);
    else for (const member of page.members) this.members.set(member.user, member);
    this.count = page.member_count;
  }

  /** @param {any} event */
  applyTyping(event) {
    this.#typing.delete(event.user);
    if (event.active)
      this.#typing.set(event.user, { nick: event.nick, until: Date.now() + TYPING_MS });
    return TYPING_MS;
  }

  /** The nicks of members who are typing. */
  get typing() {
    const now = Date.now();
    return [...this.#typing.values()].filter(({ until }) => until > now).map(({ nick }) => nick);
  }

  /** Marks everything as read. Returns whether anything was unread. */
  markRead() {
    const news = this.read < this.last || this.unread > 0;
    this.read = Math.max(this.read, this.last);
    this.unread = 0;
    return news;
  }

  /** It was read in another tab. @param {number} seq @param {string} me */
  applyRead(seq, me) {
    if (seq <= this.read) return;
    this.read = this.marked = seq;
    const behind = this.entries.filter((each) => each.seq > seq && each.kind === "message");
    this.unread = behind.filter((each) => each.kind === "message" && each.user !== me).length;
  }

  /** A user's last message that can be edited. @param {string} user */
  lastMessageOf(user) {
    return /** @type {Message | undefined} */ (
      this.entries.findLast(
        (each) => each.kind === "message" && each.seq && each.user === user && !each.deleted,
      )
    );
  }

  /** Applies an event to earlier entries. @param {any} event */
  #change(event) {
    if (event.on === "topic") this.topic = event.text ?? "";
    else if (event.on === "delete") this.#revise(event.of, { text: "", deleted: true });
    else if (event.on === "edit" && event.text !== undefined)
      this.#revise(event.of, { text: event.text, edited: Date.parse(event.at) });
  }

  /** @param {number} seq @param {Partial<Message>} change */
  #revise(seq, change) {
    const before = this.messages.get(seq);
    if (!before) return;
    const after = { ...before, ...change };
    this.messages.set(seq, after);
    const index = this.entries.indexOf(before);
    if (index >= 0) this.entries[index] = after;
  }

  /** @param {Entry} each */
  #append(each) {
    this.#index(each);
    this.entries.push(each);
    this.#trim();
  }

  /** @param {Entry} each */
  #index(each) {
    if (each.kind === "message" && each.seq) this.messages.set(each.seq, each);
  }

  /**
   * @param {Member[]} members
   * @param {number} count
   */
  #setMembers(members, count) {
    this.members = new Map(members.map((member) => [member.user, member]));
    this.count = count;
    // By id, so that the hues are the same after a reload and for others.
    for (const user of [...this.members.keys()].sort()) this.palette.hue(user);
  }

  /** Lets the oldest entries go. */
  #trim() {
    if (this.entries.length <= MAX_ENTRIES) return;
    // A tenth at a time, not at each message.
    this.#forget(this.entries.splice(0, this.entries.length - 0.9 * MAX_ENTRIES));
    this.first = this.entries.find((each) => each.seq)?.seq ?? this.end + 1;
    this.more = true;
  }

  /** @param {Entry[]} gone */
  #forget(gone) {
    for (const { seq } of gone) this.messages.delete(seq);
    if (this.messages.size <= 2 * MAX_ENTRIES) return;
    // Most of them were quoted by entries that are gone.
    this.messages.clear();
    for (const each of this.entries) this.#index(each);
  }
}
