// @ts-check
/** The messages of the current room, and the scroll position. */

import { lineElement, messageElement, unsentElement } from "./message.js";
import { day, dayName, element, find, plural, sampleTimes } from "./text.js";

// An author's messages share a heading for this long.
const GROUP_MS = 5 * 60_000;
// Nearer to the end than this is at the end: browsers round.
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
  /** The date of what is in view, while that is not the end. */
  #date = find("date", HTMLDivElement);
  /** @type {import("./room.js").Room | null} */
  #room = null;
  /** Whether the view follows the end. */
  #following = true;
  /** The last scroll position. */
  #scrolledTo = 0;
  /** The last number that was in view at the end. */
  #seen = 0;
  /** @type {WeakMap<Entry, {shape: string, node: HTMLElement}>} */
  #nodes = new WeakMap();
  /** @type {Map<string, {shape: string, node: HTMLElement}>} */
  #unsent = new Map();
  /** @type {Map<string, HTMLElement>} */
  #days = new Map();
  #divider = element("li", { class: "new" }, element("span", {}, "New"));

  #visit;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {(name: string) => void} visit called for a room whose link was followed
   */
  constructor(chat, visit) {
    this.#chat = chat;
    this.#visit = visit;
    // The times beside messages have a column as wide as the widest time, in any font and locale.
    const times = find("times", HTMLDivElement);
    times.append(...sampleTimes().map((each) => element("div", {}, each)));
    new ResizeObserver(() => {
      const width = `${Math.ceil(times.getBoundingClientRect().width)}px`;
      document.documentElement.style.setProperty("--times", width);
    }).observe(times);
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#pill.addEventListener("click", () => this.scrollToEnd());
    this.#list.addEventListener("click", (event) => this.#clicked(event));
    this.#list.addEventListener("animationend", (event) => {
      if (event.target instanceof Element) event.target.classList.remove("found");
    });
    const resized = new ResizeObserver(() => {
      if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    });
    resized.observe(this.#scroller);
    resized.observe(this.#list);
  }

  /** Scrolls to the end. @param {boolean} sent whether because the user sent a message */
  scrollToEnd(sent = false) {
    if (sent && this.#room) this.#room.divider = 0;
    if (this.#room && !this.#room.atEnd) void this.#chat.history.latest(this.#room);
    this.#following = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.render();
  }

  /** Shows a message, wherever in the log it is. @param {number} seq */
  async jumpTo(seq) {
    const room = this.#room;
    if (!room) return;
    this.#following = false;
    await this.#chat.history.around(room, seq);
    if (room !== this.#room) return;
    this.render();
    const node = this.#list.querySelector(`[data-seq="${seq}"]`);
    if (!(node instanceof HTMLElement)) return;
    node.scrollIntoView({ block: "center" });
    node.focus({ preventScroll: true });
    node.classList.add("found");
  }

  /** Whether the user sees new messages. */
  get #watching() {
    return this.#following && this.#room?.atEnd && !document.hidden && document.hasFocus();
  }

  render() {
    const room = this.#chat.current;
    const another = room !== this.#room;
    // Screen readers announce new messages, not a room's history.
    const old = another || room?.loading || this.#scroller.ariaBusy === "true";
    this.#scroller.ariaBusy = String(Boolean(old));
    if (another) this.#switch(room);
    if (!room) {
      this.#date.hidden = true;
      this.#list.replaceChildren();
      this.#top.textContent = "";
      this.#setEmptyText("Join a room to start.");
      this.#pill.hidden = true;
      return;
    }
    if (!this.#watching && room.unread && room.divider <= room.read) room.divider = room.read + 1;
    const anchor = this.#following ? null : this.#anchor();
    this.#patch(this.#rows(room));
    this.#top.textContent = this.#topText(room);
    this.#setEmptyText(
      room.entries.length
        ? ""
        : room.refused || (room.joined && !room.more ? this.#emptyText(room) : ""),
    );
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else if (anchor) {
      // By number: an element is replaced when its message gains or loses the heading.
      const node = this.#list.querySelector(`[data-seq="${anchor.seq}"]`);
      if (node) this.#scroller.scrollTop += node.getBoundingClientRect().top - anchor.top;
    }
    room.follows = this.#following;
    if (this.#watching) {
      this.#seen = room.last;
      this.#chat.markRead(room);
    } else if (this.#following) this.#seen = room.last;
    this.#renderPill(room);
    this.#renderDate();
    this.#loadMore(room);
    if (!room.loading) queueMicrotask(() => (this.#scroller.ariaBusy = "false"));
  }

  /** @param {import("./room.js").Room | null} room */
  #switch(room) {
    if (this.#room) this.#room.divider = 0;
    this.#room = room;
    this.#unsent.clear();
    this.#days.clear();
    this.#following = true;
    if (!room) return;
    room.divider = room.unread && room.read ? room.read + 1 : 0;
    // It was left while an older part was in view.
    if (!room.atEnd) void this.#chat.history.latest(room);
  }

  /** @param {string} text */
  #setEmptyText(text) {
    this.#empty.textContent = text;
    this.#empty.hidden = !text;
  }

  /** @param {import("./room.js").Room} room */
  #emptyText(room) {
    return room.stored
      ? "No messages yet."
      : "Messages between guests are not saved. They are gone when you reload or leave this page.";
  }

  /** @param {import("./room.js").Room} room */
  #topText(room) {
    if (room.loading) return "Loading earlier messages …";
    if (room.more || !room.entries.length) return "";
    if (!room.stored) return this.#emptyText(room);
    return room.direct
      ? `This is the beginning of your messages with ${room.label}.`
      : `This is the beginning of #${room.name}.`;
  }

  /**
   * The elements to show, in order; one is made for each entry.
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
      // Measured from the heading, so that a long run gets a new one now and then.
      before = head || entry.kind !== "message" ? entry : before;
    }
    for (const item of this.#chat.outbox.forRoom(room.name)) {
      if (item.seen) continue;
      const { text, at, replyTo } = item;
      const { user, nick } = this.#chat;
      /** @type {Message} */
      const entry = {
        ...{ kind: "message", seq: 0, at, user, nick, text },
        ...{ replyTo, edited: 0, deleted: false },
      };
      const head = begin(entry) || !this.#continues(before, entry);
      rows.push(this.#unsentRow(item, entry, head));
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
    // The name changes at midnight.
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
    const { palette } = /** @type {import("./room.js").Room} */ (this.#room);
    const node =
      entry.kind === "line"
        ? lineElement(entry)
        : messageElement(entry, { head, mine, quote, palette });
    this.#nodes.set(entry, { shape, node });
    return node;
  }

  /** The quoted message, if it is known. @param {number} replyTo */
  #quote(replyTo) {
    if (!replyTo || !this.#room) return null;
    void this.#chat.history.quoted(this.#room, replyTo);
    return this.#room.messages.get(replyTo) ?? null;
  }

  /** @param {Unsent} item @param {Message} entry @param {boolean} head */
  #unsentRow(item, entry, head) {
    const { key, state, reason = "" } = item;
    const shape = `${head} ${state} ${reason} ${entry.nick}`;
    const known = this.#unsent.get(key);
    if (known?.shape === shape) return known.node;
    const { palette } = /** @type {import("./room.js").Room} */ (this.#room);
    const quote = this.#quote(item.replyTo);
    const node = unsentElement(item, entry, { head, mine: true, quote, palette });
    this.#unsent.set(key, { shape, node });
    return node;
  }

  /** @param {HTMLElement[]} rows */
  #patch(rows) {
    // Removals first: then the rest is in order, and nothing is moved.
    const wanted = new Set(/** @type {Element[]} */ (rows));
    for (const node of [...this.#list.children]) if (!wanted.has(node)) node.remove();
    let next = this.#list.firstElementChild;
    for (const node of rows) {
      if (node === next) next = next.nextElementSibling;
      else this.#list.insertBefore(node, next);
    }
  }

  /** The first visible message, to be kept in place. */
  #anchor() {
    const edge = this.#scroller.getBoundingClientRect().top;
    for (const node of this.#list.querySelectorAll("[data-seq]")) {
      const { top, bottom } = node.getBoundingClientRect();
      if (bottom > edge) return { node, seq: node.getAttribute("data-seq"), top };
    }
    return null;
  }

  #renderDate() {
    const first = this.#following ? null : this.#anchor();
    const at = first?.node.querySelector("time")?.dateTime;
    const text = at ? dayName(Date.parse(at)) : "";
    this.#date.hidden = !text;
    if (this.#date.textContent !== text) this.#date.textContent = text;
  }

  #scrolled() {
    const room = this.#room;
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    // Scrolling up leaves the end. If a resize moves the end, follow it.
    const up = scrollTop < this.#scrolledTo;
    this.#scrolledTo = scrollTop;
    const atEnd = scrollHeight - scrollTop - clientHeight < END_PX;
    const following = Boolean((this.#following && !up) || (atEnd && room?.atEnd));
    if (following !== this.#following) {
      this.#following = following;
      this.render();
    } else if (room) {
      this.#renderPill(room);
      this.#renderDate();
      this.#loadMore(room);
    }
  }

  /** Loads more when near an end of the entries. */
  /** @param {import("./room.js").Room} room */
  #loadMore(room) {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    if (scrollTop < TOP_PX) void this.#chat.history.older(room);
    if (!room.atEnd && scrollHeight - scrollTop - clientHeight < TOP_PX)
      void this.#chat.history.newer(room);
  }

  /** @param {import("./room.js").Room} room */
  #renderPill(room) {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const isNew = (/** @type {Entry} */ entry) =>
      entry.kind === "message" && entry.seq > this.#seen && entry.user !== this.#chat.user;
    // Away from the end, not all new messages are here.
    const count = room.atEnd ? room.entries.filter(isNew).length : room.unread;
    const far = scrollHeight - scrollTop - clientHeight > 1.5 * clientHeight;
    this.#pill.hidden = this.#following || !(count || far || !room.atEnd);
    this.#pill.classList.toggle("news", count > 0);
    const news = plural(count, "new message");
    const jump = "Jump to the latest";
    const text = !count ? jump : room.atEnd ? news : `${jump} (${news})`;
    if (this.#pill.textContent !== text) this.#pill.textContent = text;
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    if (!(event.target instanceof Element)) return;
    const link = event.target.closest("a[data-room]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      this.#visit(link.getAttribute("data-room") ?? "");
      return;
    }
    const button = event.target.closest("button[data-do]");
    const node = button?.closest("li");
    switch (button?.getAttribute("data-do")) {
      case "retry":
        this.#chat.retry(node?.dataset.key ?? "");
        break;
      case "discard":
        this.#chat.outbox.discard(node?.dataset.key ?? "");
        break;
      case "jump":
        void this.jumpTo(Number(button?.getAttribute("data-to")));
        break;
    }
  }
}
