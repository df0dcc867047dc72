// @ts-check
/** The messages of the room that is looked at, and where in them one is. */

import { drawn, drawnLine, drawnUnsent } from "./message.js";
import { counted, day, dayName, element, find } from "./text.js";

// One author's messages stand under one head for this long.
const GROUP_MS = 5 * 60_000;
// Nearer to the end than this counts as the end: browsers round.
const END_PX = 48;
const TOP_PX = 600;

/**
 * @typedef {import("./room.js").Entry} Entry
 * @typedef {import("./room.js").Message} Message
 * @typedef {import("./outbox.js").Unsent} Unsent
 */

export class Log {
  #chat;
  #scroller = find("scroller", HTMLDivElement);
  #list = find("log", HTMLOListElement);
  #top = find("log-top", HTMLParagraphElement);
  #empty = find("empty", HTMLParagraphElement);
  #pill = find("pill", HTMLButtonElement);
  /** @type {import("./room.js").Room | null} */
  #room = null;
  /** Whether the end is what is looked at. */
  #stuck = true;
  /** Where the last scroll led to. */
  #scrolledTo = 0;
  /** The last number that was in sight while at the end. */
  #seen = 0;
  /** @type {WeakMap<Entry, {shape: string, node: HTMLElement}>} */
  #nodes = new WeakMap();
  /** @type {Map<string, {shape: string, node: HTMLElement}>} */
  #unsent = new Map();
  /** @type {Map<string, HTMLElement>} */
  #days = new Map();
  #divider = element("li", { class: "new" }, element("span", {}, "New"));

  /** @param {import("./chat.js").Chat} chat */
  constructor(chat) {
    this.#chat = chat;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#pill.addEventListener("click", () => this.toEnd());
    this.#list.addEventListener("click", (event) => this.#clicked(event));
    this.#list.addEventListener("animationend", (event) => {
      if (event.target instanceof Element) event.target.classList.remove("found");
    });
    const resized = new ResizeObserver(() => {
      if (this.#stuck) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    });
    resized.observe(this.#scroller);
    resized.observe(this.#list);
  }

  /** To the latest. Who has said something has seen what was new. @param {boolean} said */
  toEnd(said = false) {
    if (said && this.#room) this.#room.divider = 0;
    if (this.#room && !this.#room.attached) void this.#chat.past.latest(this.#room);
    this.#stuck = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.render();
  }

  /** Brings a message into sight, wherever in the log it is. @param {number} seq */
  async show(seq) {
    const room = this.#room;
    if (!room) return;
    this.#stuck = false;
    await this.#chat.past.around(room, seq);
    if (room !== this.#room) return;
    this.render();
    const node = this.#list.querySelector(`[data-seq="${seq}"]`);
    if (!(node instanceof HTMLElement)) return;
    node.scrollIntoView({ block: "center" });
    node.focus({ preventScroll: true });
    node.classList.add("found");
  }

  /** Whether what is new is in sight of somebody. */
  get #looking() {
    return this.#stuck && this.#room?.attached && !document.hidden && document.hasFocus();
  }

  render() {
    const room = this.#chat.current;
    const another = room !== this.#room;
    // What is read out is what comes while one listens, not a room's past.
    const past = another || room?.loading || this.#scroller.ariaBusy === "true";
    this.#scroller.ariaBusy = String(Boolean(past));
    if (another) this.#enter(room);
    if (!room) {
      this.#list.replaceChildren();
      this.#top.textContent = "";
      this.#say("Join a room to start.");
      this.#pill.hidden = true;
      return;
    }
    if (!this.#looking && room.unread && room.divider <= room.read) room.divider = room.read + 1;
    const anchor = this.#stuck ? null : this.#anchor();
    this.#patch(this.#rows(room));
    this.#top.textContent = this.#topText(room);
    this.#say(
      room.entries.length
        ? ""
        : room.refused || (room.joined && !room.more ? "Nothing was said here yet." : ""),
    );
    if (this.#stuck) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else if (anchor) {
      // By its number: an element is made anew where a message lost or gained its head.
      const node = this.#list.querySelector(`[data-seq="${anchor.seq}"]`);
      if (node) this.#scroller.scrollTop += node.getBoundingClientRect().top - anchor.top;
    }
    room.follows = this.#stuck;
    if (this.#looking) {
      this.#seen = room.last;
      this.#chat.read(room);
    } else if (this.#stuck) this.#seen = room.last;
    this.#renderPill(room);
    this.#reach(room);
    if (!room.loading) queueMicrotask(() => (this.#scroller.ariaBusy = "false"));
  }

  /** @param {import("./room.js").Room | null} room */
  #enter(room) {
    if (this.#room) this.#room.divider = 0;
    this.#room = room;
    this.#unsent.clear();
    this.#days.clear();
    this.#stuck = true;
    if (room) room.divider = room.unread && room.read ? room.read + 1 : 0;
  }

  /** @param {string} text */
  #say(text) {
    this.#empty.textContent = text;
    this.#empty.hidden = !text;
  }

  /** @param {import("./room.js").Room} room */
  #topText(room) {
    if (room.loading) return "Loading earlier messages …";
    if (room.direct && !room.kept)
      return "Between guests nothing is kept: it is gone with this page.";
    if (room.more || !room.entries.length) return "";
    return room.direct
      ? `This is the beginning of your messages with ${room.label}.`
      : `This is the beginning of #${room.name}.`;
  }

  /**
   * What is to be shown, in order; elements are made once for each entry.
   * @param {import("./room.js").Room} room
   */
  #rows(room) {
    /** @type {HTMLElement[]} */
    const rows = [];
    /** @type {Entry | null} */
    let before = null;
    let today = "";
    let divided = !room.divider;
    /** @param {Entry} entry */
    const begin = (entry) => {
      const date = day(entry.at);
      if (date === today) return false;
      today = date;
      rows.push(this.#day(entry.at, date));
      return true;
    };
    for (const entry of room.entries) {
      let apart = begin(entry);
      if (
        !divided &&
        entry.kind === "message" &&
        entry.seq >= room.divider &&
        entry.user !== this.#chat.user
      ) {
        divided = apart = true;
        rows.push(this.#divider);
      }
      /** @type {boolean} */
      const head = apart || !this.#continues(before, entry);
      rows.push(this.#entry(entry, head));
      // A run is measured from its head: an endless one still gets a time now and then.
      before = head || entry.kind !== "message" ? entry : before;
    }
    for (const item of this.#chat.outbox.of(room.name)) {
      if (item.seen) continue;
      const { text, at, replyTo } = item;
      const { user, nick } = this.#chat;
      /** @type {Message} */
      const entry = {
        ...{ kind: "message", seq: 0, at, user, nick, text },
        ...{ replyTo, edited: 0, deleted: false },
      };
      const head = begin(entry) || !this.#continues(before, entry);
      rows.push(this.#pending(item, entry, head));
      if (head) before = entry;
    }
    return rows;
  }

  /** @param {Entry | null} before @param {Entry} entry */
  #continues(before, entry) {
    return (
      before?.kind === "message" &&
      entry.kind === "message" &&
      before.user === entry.user &&
      before.nick === entry.nick &&
      !entry.replyTo &&
      entry.at - before.at < GROUP_MS
    );
  }

  /** @param {number} at @param {string} date */
  #day(at, date) {
    // Today is Yesterday after midnight.
    const name = dayName(at);
    let node = this.#days.get(date);
    if (!node) this.#days.set(date, (node = element("li", { class: "day" }, element("span"))));
    const label = /** @type {HTMLElement} */ (node.firstElementChild);
    if (label.textContent !== name) label.textContent = name;
    return node;
  }

  /** @param {Entry} entry @param {boolean} head */
  #entry(entry, head) {
    const quote = entry.kind === "message" ? this.#quote(entry.replyTo) : null;
    const mine = entry.kind === "message" && entry.user === this.#chat.user;
    const shape = `${head} ${mine} ${quote?.nick} ${quote?.deleted} ${quote?.text}`;
    const known = this.#nodes.get(entry);
    if (known?.shape === shape) return known.node;
    const node = entry.kind === "line" ? drawnLine(entry) : drawn(entry, { head, mine, quote });
    this.#nodes.set(entry, { shape, node });
    return node;
  }

  /** The message that one answers, as far as it is known. @param {number} replyTo */
  #quote(replyTo) {
    if (!replyTo || !this.#room) return null;
    void this.#chat.past.quoted(this.#room, replyTo);
    return this.#room.known.get(replyTo) ?? null;
  }

  /** @param {Unsent} item @param {Message} entry @param {boolean} head */
  #pending(item, entry, head) {
    const { key, state, reason = "" } = item;
    const shape = `${head} ${state} ${reason} ${entry.nick}`;
    const known = this.#unsent.get(key);
    if (known?.shape === shape) return known.node;
    const node = drawnUnsent(item, entry, { head, mine: true, quote: this.#quote(item.replyTo) });
    this.#unsent.set(key, { shape, node });
    return node;
  }

  /** @param {HTMLElement[]} rows */
  #patch(rows) {
    // What goes is taken out first: then what stays is in order already, and nothing is moved.
    const wanted = new Set(/** @type {Element[]} */ (rows));
    for (const node of [...this.#list.children]) if (!wanted.has(node)) node.remove();
    let next = this.#list.firstElementChild;
    for (const node of rows) {
      if (node === next) next = next.nextElementSibling;
      else this.#list.insertBefore(node, next);
    }
  }

  /** The first message in sight, to be held still. */
  #anchor() {
    const edge = this.#scroller.getBoundingClientRect().top;
    for (const node of this.#list.querySelectorAll("[data-seq]")) {
      const { top, bottom } = node.getBoundingClientRect();
      if (bottom > edge) return { seq: node.getAttribute("data-seq"), top };
    }
    return null;
  }

  #scrolled() {
    const room = this.#room;
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    // The end is left by going up. It may also move away, by another size: then it is followed.
    const up = scrollTop < this.#scrolledTo;
    this.#scrolledTo = scrollTop;
    const atEnd = scrollHeight - scrollTop - clientHeight < END_PX;
    const stuck = Boolean((this.#stuck && !up) || (atEnd && room?.attached));
    if (stuck !== this.#stuck) {
      this.#stuck = stuck;
      this.render();
    } else if (room) {
      this.#renderPill(room);
      this.#reach(room);
    }
  }

  /** Near an end of what is held, or where that is in sight anyway: more. */
  /** @param {import("./room.js").Room} room */
  #reach(room) {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    if (scrollTop < TOP_PX) void this.#chat.past.older(room);
    if (!room.attached && scrollHeight - scrollTop - clientHeight < TOP_PX)
      void this.#chat.past.newer(room);
  }

  /** @param {import("./room.js").Room} room */
  #renderPill(room) {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    let count = 0;
    for (let index = room.entries.length - 1; index >= 0; index -= 1) {
      const entry = room.entries[index];
      if (entry.kind !== "message") continue;
      if (entry.seq <= this.#seen) break;
      count += 1;
    }
    const far = scrollHeight - scrollTop - clientHeight > 1.5 * clientHeight;
    this.#pill.hidden = this.#stuck || !(count || far || !room.attached);
    this.#pill.classList.toggle("news", count > 0);
    const text = count ? counted(count, "new message") : "Jump to the latest";
    if (this.#pill.textContent !== text) this.#pill.textContent = text;
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const button = event.target instanceof Element ? event.target.closest("button[data-do]") : null;
    const node = button?.closest("li");
    switch (button?.getAttribute("data-do")) {
      case "retry":
        this.#chat.retry(node?.dataset.key ?? "");
        break;
      case "discard":
        this.#chat.outbox.discard(node?.dataset.key ?? "");
        break;
      case "jump":
        void this.show(Number(button?.getAttribute("data-to")));
        break;
    }
  }
}
