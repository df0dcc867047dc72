// @ts-check
/** One room as this page knows it: a stretch of its log, who is in it, what was read. */

// The stretch that is kept: the oldest go first, scrolling up reads them again.
const KEPT = 1_000;
const KEPT_AT_MOST = 5_000;
// Presence lines side by side are told as one.
const PARTS = 4;

/**
 * @typedef {{kind: "message", seq: number, at: number, user: string, nick: string, text: string}} Message
 * @typedef {{kind: "line", at: number, tone: "presence" | "notice" | "gap", parts: string[]}} Line
 * @typedef {Message | Line} Entry
 * @typedef {{nick: string, user: string, op: boolean}} Member
 */

/**
 * @param {any} event
 * @returns {Message | null} null for a kind of event that this page does not know
 */
function message(event) {
  if (event.on !== "message") return null;
  const { seq, user, from: nick } = event;
  return { kind: "message", seq, at: Date.parse(event.at), user, nick, text: event.text ?? "" };
}

export class Room {
  /** Whether the daemon has us in it, on this connection. */
  joined = false;
  /** Why the daemon would not have us; "" while it would. */
  refused = "";
  topic = "";
  epoch = "";
  /** The last number seen; 0: none. */
  last = 0;
  /** @type {Entry[]} */
  entries = [];
  /** Whether there is more of the log above. */
  more = false;
  loading = false;
  /** Whether the end of the log is what is looked at, so that its head may be let go. */
  follows = true;
  /** @type {Map<string, Member>} */
  members = new Map();
  count = 0;
  /** The last number read, in this tab or another. */
  read = 0;
  unread = 0;
  /** Where "new" begins while the room is looked at; 0: nowhere. */
  divider = 0;

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  get since() {
    return this.epoch ? { epoch: this.epoch, seq: this.last } : null;
  }

  /** The lowest number held, from where history reads back. */
  get first() {
    for (const entry of this.entries) if (entry.kind === "message") return entry.seq;
    return this.last + 1;
  }

  /**
   * Takes a join's answer. Gives its messages that are new here.
   * @param {any} answer
   * @param {{epoch: string, seq: number} | null} read the stored read mark
   * @param {string} me
   */
  enter(answer, read, me) {
    const fresh = !this.epoch;
    if (!answer.recovered) {
      this.entries = [];
      this.last = 0;
      this.unread = 0;
      this.divider = 0;
      // Retention may have taken the log's head, but then history says so.
      this.more = answer.events.length > 0 && answer.events[0].seq > 1;
    }
    this.joined = true;
    this.refused = "";
    this.epoch = answer.epoch;
    this.topic = answer.topic;
    this.#meet(answer.members, answer.member_count);
    if (!answer.recovered) {
      if (!fresh)
        this.line(
          "gap",
          "Reconnected. What was shown before could not be resumed; this is the latest.",
        );
      // A room seen for the first time has nothing unread; one that was renewed under our eyes has.
      if (read && read.epoch === answer.epoch) this.read = read.seq;
      else this.read = fresh ? answer.seq : 0;
    }
    const taken = answer.events.map((/** @type {any} */ event) => this.take(event, me));
    // An event kind of which this page knows nothing may end the page.
    if (!answer.recovered && answer.events.length === 0) this.last = answer.seq;
    return taken.filter(Boolean);
  }

  /**
   * Takes an event of the log, once.
   * @param {any} event
   * @param {string} me
   * @returns {Message | null} what is new of it
   */
  take(event, me) {
    if (event.seq <= this.last) return null;
    this.last = event.seq;
    const entry = message(event);
    if (!entry) return null;
    this.entries.push(entry);
    if (entry.user !== me && entry.seq > this.read) this.unread += 1;
    this.#trim();
    return entry;
  }

  /**
   * Takes a page of what lies before.
   * @param {{epoch: string, events: any[], more: boolean}} page
   */
  prepend(page) {
    if (page.epoch !== this.epoch) return;
    const first = this.first;
    const older = page.events.filter((event) => event.seq < first).map(message);
    this.entries.unshift(.../** @type {Message[]} */ (older.filter(Boolean)));
    this.more = page.more && older.length > 0;
  }

  /**
   * @param {Line["tone"]} tone
   * @param {string} text
   */
  line(tone, text) {
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
      this.entries.push({ kind: "line", at, tone, parts: [text] });
    }
    this.#trim();
  }

  /** @param {any} event joined, left, nick or presence */
  presence(event) {
    const known = this.members.get(event.user);
    switch (event.on) {
      case "joined":
        if (known) break;
        this.members.set(event.user, { nick: event.nick, user: event.user, op: false });
        this.count += 1;
        this.line("presence", `${event.nick} joined`);
        break;
      case "left":
        this.members.delete(event.user);
        this.count = Math.max(this.count - 1, this.members.size);
        this.line("presence", `${event.nick} left`);
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

  /** Everything there is was looked at. Tells whether that was news. */
  markRead() {
    const news = this.read < this.last;
    this.read = Math.max(this.read, this.last);
    this.unread = 0;
    return news;
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
    this.entries.splice(0, this.entries.length - bound + bound / 10);
    this.more = true;
  }
}
