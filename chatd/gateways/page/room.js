// @ts-check
/** One room as this page knows it: a stretch of its log, who is in it, what was read. */

// The stretch that is kept: the oldest go first, scrolling up reads them again.
const KEPT = 1_000;
const KEPT_AT_MOST = 5_000;
// Presence lines side by side are told as one.
const PARTS = 4;
// Who writes says so again every few seconds.
const TYPING_MS = 6_000;

/** @type {Record<string, string>} */
const LEFT = { kicked: "was put out", banned: "was banned" };

/**
 * @typedef {object} Message
 * @property {"message"} kind
 * @property {number} seq 0 where it is told and not kept
 * @property {number} at
 * @property {string} user
 * @property {string} nick
 * @property {string} text
 * @property {number} replyTo 0: to none
 * @property {number} edited when; 0: never
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
 * @returns {Entry | null} null for an event that has no place of its own among the messages
 */
function entry(event) {
  if (event.on === "message") return message(event);
  if (event.on !== "topic") return null;
  const told = event.text ? `set the topic: ${event.text}` : "took the topic away";
  const parts = [`${event.from} ${told}`];
  return { kind: "line", seq: event.seq, at: Date.parse(event.at), tone: "topic", parts };
}

export class Room {
  /** Whether the daemon has us in it, on this connection. */
  joined = false;
  /** Why the daemon would not have us; "" while it would. */
  refused = "";
  /** What the other one is called, in direct messages. */
  peer = "";
  /** Whether what is said here is kept, as far as we have seen. */
  kept = true;
  topic = "";
  maySetTopic = false;
  epoch = "";
  /** The last number seen; 0: none. */
  last = 0;
  /** @type {Entry[]} */
  entries = [];
  /** The numbers between which `entries` has everything. */
  first = 1;
  end = 0;
  /** Every message that is known by its number, in the stretch or quoted in it; null: there is none. */
  /** @type {Map<number, Message | null>} */
  known = new Map();
  /** Whether there is more of the log above. */
  more = false;
  loading = false;
  /** Whether the end of the log is what is looked at, so that its head may be let go. */
  follows = true;
  /** @type {Map<string, Member>} */
  members = new Map();
  count = 0;
  /** Who is writing. @type {Map<string, {nick: string, until: number}>} */
  #typing = new Map();
  /** The last number read, in this tab or another; and what the daemon knows of it. */
  read = 0;
  marked = 0;
  unread = 0;
  /** Up to where the daemon has counted what is unread. */
  #counted = 0;
  /** Where "new" begins while the room is looked at; 0: nowhere. */
  divider = 0;

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  /** Whether it is the room of two. */
  get direct() {
    return this.name.startsWith("@");
  }

  /** What it is called here. */
  get label() {
    return this.direct ? this.peer || "…" : this.name;
  }

  get since() {
    return this.epoch ? { epoch: this.epoch, seq: this.last } : null;
  }

  /** Whether what is held goes up to what happens now. */
  get attached() {
    return this.end === this.last;
  }

  /**
   * Takes a join's answer. Gives its messages that are new here.
   * @param {any} answer
   * @param {string} me
   */
  enter(answer, me) {
    const fresh = !this.epoch;
    if (!answer.recovered) {
      this.entries = this.entries.filter((each) => each.kind === "message" && !each.seq);
      this.known.clear();
      this.last = this.end = this.read = this.divider = 0;
      this.unread = this.entries.filter(
        (each) => each.kind === "message" && each.user !== me,
      ).length;
      this.marked = 0;
      this.first = answer.events[0]?.seq ?? answer.seq + 1;
      // Retention may have taken the log's head, but then history says so.
      this.more = answer.events.length > 0 && this.first > 1;
    }
    this.joined = true;
    this.refused = "";
    this.epoch = answer.epoch;
    this.topic = answer.topic;
    this.maySetTopic = answer.may_set_topic;
    this.#meet(answer.members, answer.member_count);
    if (!answer.recovered && !fresh)
      this.line(
        "gap",
        "Reconnected. What was shown before could not be resumed; this is the latest.",
      );
    if (answer.read >= this.read) {
      this.read = this.marked = answer.read;
      this.unread = answer.unread;
      this.#counted = answer.seq;
    } else if (fresh && !this.direct) {
      // A room seen for the first time has nothing unread; one that was renewed under our eyes has.
      this.read = answer.seq;
    }
    const taken = answer.events.map((/** @type {any} */ event) => this.take(event, me));
    if (!answer.recovered && answer.events.length === 0) this.last = this.end = answer.seq;
    return taken.filter(Boolean);
  }

  /**
   * Takes an event of the log, once; or a message that is told and not kept.
   * @param {any} event
   * @param {string} me
   * @returns {Message | null} the message that it is
   */
  take(event, me) {
    const { seq = 0 } = event;
    if (seq && seq <= this.last) return null;
    const { attached } = this;
    if (seq) this.last = seq;
    if (seq && attached) this.end = seq;
    if (event.on === "message" && !seq) this.kept = false;
    this.#typing.delete(event.user);
    this.#change(event);
    const taken = entry(event);
    if (!taken) return null;
    if (attached) this.#append(taken);
    if (taken.kind !== "message") return null;
    const counted = seq && (seq <= this.read || seq <= this.#counted);
    if (taken.user !== me && !taken.deleted && !counted) this.unread += 1;
    return taken;
  }

  /**
   * Takes a page of what lies before.
   * @param {{epoch: string, events: any[], more: boolean}} page
   */
  prepend(page) {
    if (page.epoch !== this.epoch) return;
    const older = page.events.filter((event) => event.seq < this.first);
    const entries = /** @type {Entry[]} */ (older.map(entry).filter(Boolean));
    for (const each of entries) this.#know(each);
    this.entries.unshift(...entries);
    this.first = older[0]?.seq ?? this.first;
    this.more = page.more && older.length > 0;
  }

  /**
   * Takes a page of what comes after the stretch that is held.
   * @param {{epoch: string, events: any[]}} page
   * @param {number} upto the last number there was when it was asked for
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
  }

  /**
   * Holds another stretch of the log in place of this one: it ends with this page.
   * @param {{epoch: string, events: any[], more: boolean}} page
   */
  move(page) {
    if (page.epoch !== this.epoch || !page.events.length) return;
    this.entries = [];
    this.known.clear();
    this.first = page.events[0].seq;
    this.end = this.first - 1;
    this.more = page.more;
    this.append(page, 0);
  }

  /**
   * @param {Line["tone"]} tone
   * @param {string} text
   */
  line(tone, text) {
    if (!this.attached) return;
    const before = this.entries.at(-1);
    const at = Date.now();
    if (
      before?.kind === "line" &&
      before.tone === tone &&
      tone === "presence" &&
      before.parts.length < PARTS
    ) {
      // A new entry, not a changed one: the view keeps an element for each.
      this.entries[this.entries.length - 1] = { ...before, at, parts: [...before.parts, text] };
    } else {
      this.entries.push({ kind: "line", seq: 0, at, tone, parts: [text] });
    }
    this.#trim();
  }

  /** @param {any} event joined, left, nick or presence */
  presence(event) {
    const known = this.members.get(event.user);
    switch (event.on) {
      case "joined":
        if (known) break;
        this.members.set(event.user, { nick: event.nick, user: event.user, op: event.op });
        this.count += 1;
        this.line("presence", `${event.nick} joined`);
        break;
      case "left":
        this.members.delete(event.user);
        this.#typing.delete(event.user);
        this.count = Math.max(this.count - 1, this.members.size);
        this.line("presence", `${event.nick} ${LEFT[event.reason] ?? "left"}`);
        break;
      case "nick":
        if (known) this.members.set(event.user, { ...known, nick: event.to });
        this.line("presence", `${event.from} is now ${event.to}`);
        break;
      case "presence":
        this.count = event.total;
        break;
    }
  }

  /**
   * Takes a page of `who`.
   * @param {{members: Member[], member_count: number}} page
   * @param {boolean} anew whether it is the first page
   */
  who(page, anew) {
    if (anew) this.#meet(page.members, page.member_count);
    else for (const member of page.members) this.members.set(member.user, member);
    this.count = page.member_count;
  }

  /** Takes the sign that somebody writes, or no more. @param {any} event */
  writes(event) {
    this.#typing.delete(event.user);
    if (event.active)
      this.#typing.set(event.user, { nick: event.nick, until: Date.now() + TYPING_MS });
    return TYPING_MS;
  }

  /** The nicks of those who are writing. */
  get writers() {
    const now = Date.now();
    return [...this.#typing.values()].filter(({ until }) => until > now).map(({ nick }) => nick);
  }

  /** Everything there is was looked at. Tells whether that was news. */
  markRead() {
    const news = this.read < this.last || this.unread > 0;
    this.read = Math.max(this.read, this.last);
    this.unread = 0;
    return news;
  }

  /** It was read elsewhere, up to there. @param {number} seq @param {string} me */
  readTo(seq, me) {
    if (seq <= this.read) return;
    this.read = this.marked = seq;
    const behind = this.entries.filter((each) => each.seq > seq && each.kind === "message");
    this.unread = behind.filter((each) => each.kind === "message" && each.user !== me).length;
  }

  /** The last message that somebody may still change. @param {string} user */
  lastOf(user) {
    return /** @type {Message | undefined} */ (
      this.entries.findLast(
        (each) => each.kind === "message" && each.seq && each.user === user && !each.deleted,
      )
    );
  }

  /** What an event does to what was there before. @param {any} event */
  #change(event) {
    if (event.on === "topic") this.topic = event.text ?? "";
    else if (event.on === "delete") this.#revise(event.of, { text: "", deleted: true });
    else if (event.on === "edit" && event.text !== undefined)
      this.#revise(event.of, { text: event.text, edited: Date.parse(event.at) });
  }

  /** @param {number} seq @param {Partial<Message>} change */
  #revise(seq, change) {
    const before = this.known.get(seq);
    if (!before) return;
    const after = { ...before, ...change };
    this.known.set(seq, after);
    const index = this.entries.indexOf(before);
    if (index >= 0) this.entries[index] = after;
  }

  /** @param {Entry} each */
  #append(each) {
    this.#know(each);
    this.entries.push(each);
    this.#trim();
  }

  /** @param {Entry} each */
  #know(each) {
    if (each.kind === "message" && each.seq) this.known.set(each.seq, each);
  }

  /**
   * @param {Member[]} members
   * @param {number} count
   */
  #meet(members, count) {
    this.members = new Map(members.map((member) => [member.user, member]));
    this.count = count;
  }

  #trim() {
    const bound = this.follows ? KEPT : KEPT_AT_MOST;
    if (this.entries.length <= bound) return;
    // A tenth at a time, so that it is not done for each message.
    for (const gone of this.entries.splice(0, this.entries.length - bound + bound / 10))
      this.known.delete(gone.seq);
    this.first = this.entries.find((each) => each.seq)?.seq ?? this.end + 1;
    this.more = true;
  }
}
