// @ts-check
/** Search in a room: the newest first; a result leads to its place in the log. */

import { actionIn } from "./commands.js";
import { explain } from "./connection.js";
import { message } from "./room.js";
import { coloured, date, element, find, marked } from "./text.js";

const NOTHING_FOUND = "Nothing found in this room. Words are found by their beginning.";

export class Search {
  #chat;
  #jump;
  #panel = find("search", HTMLElement);
  #open = find("search-open", HTMLButtonElement);
  #query = find("search-query", HTMLInputElement);
  #list = find("search-list", HTMLOListElement);
  #note = find("search-note", HTMLParagraphElement);
  #more = find("search-more", HTMLButtonElement);
  #room = "";
  /** The current query: answers to earlier ones are dropped. */
  #asked = "";
  #before = 0;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {(seq: number) => void} jump
   */
  constructor(chat, jump) {
    this.#chat = chat;
    this.#jump = jump;
    this.#open.addEventListener("click", () => this.toggle());
    find("search-close", HTMLButtonElement).addEventListener("click", () => this.close());
    find("search-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#find(false);
    });
    this.#more.addEventListener("click", () => void this.#find(true));
    this.#list.addEventListener("click", (event) => {
      const row = event.target instanceof Element ? event.target.closest("li") : null;
      if (!row) return;
      this.close();
      this.#jump(Number(row.dataset.to));
    });
  }

  get isOpen() {
    return !this.#panel.hidden;
  }

  toggle() {
    if (this.isOpen) this.close();
    else this.#show();
  }

  /** @param {string} query */
  ask(query) {
    this.#show();
    this.#query.value = query;
    void this.#find(false);
  }

  #show() {
    this.#panel.hidden = false;
    this.#open.setAttribute("aria-expanded", "true");
    this.#query.select();
  }

  close() {
    if (!this.isOpen) return;
    this.#panel.hidden = true;
    this.#open.setAttribute("aria-expanded", "false");
    this.#open.focus();
  }

  render() {
    const name = this.#chat.current?.name ?? "";
    this.#open.hidden = !name;
    if (name === this.#room) return;
    this.#room = name;
    this.#empty("");
    this.#panel.hidden = true;
    this.#open.setAttribute("aria-expanded", "false");
  }

  /** @param {string} note */
  #empty(note) {
    this.#asked = "";
    this.#list.replaceChildren();
    this.#note.textContent = note;
    this.#more.hidden = true;
  }

  /** @param {boolean} on whether to continue the results */
  async #find(on) {
    const room = this.#room;
    const query = on ? this.#asked : this.#query.value.trim();
    if (!query) return;
    if (!on) this.#empty("Searching …");
    this.#asked = query;
    const before = on ? this.#before : undefined;
    try {
      const answer = await this.#chat.ask({ do: "search", room, query, before });
      if (this.#asked !== query || this.#room !== room) return;
      const found = answer.events.map(message);
      this.#list.append(...found.map((/** @type {any} */ each) => this.#row(each, query)));
      this.#before = found.at(-1)?.seq ?? 0;
      this.#more.hidden = !answer.more || !found.length;
      const nothing = this.#list.children.length ? "" : NOTHING_FOUND;
      this.#note.textContent = answer.incomplete
        ? `${nothing} Older messages are still being indexed. Search again later.`.trim()
        : nothing;
    } catch (error) {
      if (this.#asked === query && this.#room === room) this.#note.textContent = explain(error);
    }
  }

  /** @param {import("./room.js").Message} found @param {string} query */
  #row(found, query) {
    const hue = this.#chat.current?.palette.hue(found.user) ?? 0;
    return element(
      "li",
      { "data-to": String(found.seq) },
      element(
        "button",
        { type: "button" },
        element(
          "span",
          { class: "who" },
          coloured(element("bdi", { class: "nick" }, found.nick), hue),
          date(found.at),
        ),
        element(
          "span",
          { class: "text", dir: "auto" },
          marked(actionIn(found.text) ?? found.text, query),
        ),
      ),
    );
  }
}
