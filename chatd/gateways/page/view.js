// @ts-check
/** The page as a whole: rendering, banner, panels, document title, keys. */

import { Actions } from "./actions.js";
import { Composer } from "./composer.js";
import { confirmAction } from "./dialog.js";
import { Log } from "./log.js";
import { Menu } from "./menu.js";
import { Moderation } from "./moderation.js";
import { People } from "./people.js";
import { Search } from "./search.js";
import { Sidebar } from "./sidebar.js";
import { shared } from "./storage.js";
import { find, plural } from "./text.js";
import { Title } from "./title.js";
import { Welcome } from "./welcome.js";

// As in style.css: on narrower pages, rooms and members are drawers.
const ROOMS_BESIDE = matchMedia("(min-width: 760px)");
const MEMBERS_BESIDE = matchMedia("(min-width: 1080px)");
const LIST = new Intl.ListFormat("en");
const FINE_POINTER = matchMedia("(hover: hover) and (pointer: fine)");

/** A panel beside the messages, or a drawer over them on a narrow page. */
class Panel {
  #panel;
  #button;
  #beside;
  #open = false;

  /**
   * @param {"rooms" | "members"} name
   * @param {MediaQueryList} beside
   * @param {() => void} changed
   */
  constructor(name, beside, changed) {
    this.name = name;
    this.#panel = find(name, HTMLElement);
    this.#button = find(`${name}-open`, HTMLButtonElement);
    this.#beside = beside;
    this.#button.addEventListener("click", () => this.toggle());
    find(`${name}-close`, HTMLButtonElement).addEventListener("click", () => this.toggle());
    beside.addEventListener("change", () => {
      this.#open = false;
      changed();
    });
    this.changed = changed;
  }

  /** Whether it covers the messages. */
  get overlaid() {
    return this.#open && !this.#beside.matches;
  }

  get #shown() {
    return this.#beside.matches ? shared.get(`${this.name}.shown`, true) : this.#open;
  }

  toggle() {
    const inside = this.#panel.contains(document.activeElement);
    if (this.#beside.matches) shared.set(`${this.name}.shown`, !this.#shown);
    else this.#open = !this.#open;
    this.changed();
    if (this.overlaid) this.#panel.querySelector("button")?.focus();
    else if (inside) this.#button.focus();
  }

  close() {
    if (this.overlaid) this.toggle();
  }

  /** @param {boolean} covered whether the other panel covers the page */
  render(covered) {
    const shown = this.#shown;
    document.body.classList.toggle(`with-${this.name}`, shown);
    this.#panel.inert = !shown || covered;
    this.#button.setAttribute("aria-expanded", String(shown));
  }
}

export class View {
  #chat;
  #log;
  #sidebar;
  #composer;
  #search;
  #title;
  #welcome;
  #rooms;
  #members;
  #scheduled = false;
  #shownRoom = "";
  #banner = find("banner", HTMLDivElement);
  #bannerText = find("banner-text", HTMLSpanElement);
  #bannerWait = find("banner-wait", HTMLSpanElement);
  #bannerAction = find("banner-action", HTMLButtonElement);
  /** @type {() => void} */
  #bannerAct = () => {};

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {boolean} tokens whether the server takes tokens
   * @param {string} greeting the operator's words of welcome, or ""
   */
  constructor(chat, tokens, greeting) {
    this.#chat = chat;
    this.#log = new Log(chat, (name) => void this.#visit(name));
    this.#sidebar = new Sidebar(chat, (name) => this.open(name));
    this.#search = new Search(chat, (seq) => void this.#log.jumpTo(seq));
    this.#composer = new Composer(chat, {
      sent: () => this.#log.scrollToEnd(true),
      open: (name) => this.open(name),
      search: (query) => this.#search.ask(query),
    });
    const menu = new Menu();
    const moderation = new Moderation(chat);
    this.#title = new Title(chat, menu, moderation);
    this.#welcome = new Welcome(chat, tokens, greeting);
    new Actions(chat, this.#composer);
    new People(chat, menu, moderation, (name) => this.open(name));
    const changed = () => this.#renderPanels();
    this.#rooms = new Panel("rooms", ROOMS_BESIDE, changed);
    this.#members = new Panel("members", MEMBERS_BESIDE, changed);
    find("rooms-open", HTMLButtonElement).addEventListener("click", () => void chat.refreshList());
    find("scrim", HTMLDivElement).addEventListener("click", () => this.#closeDrawers());
    this.#bannerAction.addEventListener("click", () => this.#bannerAct());
    document.addEventListener("keydown", (event) => this.#keyPressed(event));
    document.addEventListener("visibilitychange", () => this.changed());
    addEventListener("focus", () => this.changed());
    // Only the countdown needs a timer.
    setInterval(() => this.#renderBanner(), 1_000);
    this.#renderPanels();
    if (FINE_POINTER.matches) this.#composer.focus();
  }

  /** Schedules a rendering: at most one a frame, none while the tab is hidden. */
  changed() {
    this.#renderTitle();
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#render();
    });
  }

  /** @param {string} name */
  async open(name) {
    await this.#chat.open(name);
    this.#search.close();
    this.#closeDrawers();
    if (FINE_POINTER.matches) this.#composer.focus();
  }

  /** Goes to a room whose link was followed; a new one is not made by mistake. @param {string} name */
  async #visit(name) {
    await this.#chat.refreshList();
    const known = [...this.#chat.rooms.keys(), ...this.#chat.listed.map(({ room }) => room)];
    const found = known.find((each) => each.toLowerCase() === name.toLowerCase());
    if (found) await this.open(found).catch((error) => this.#chat.report(error));
    else
      await confirmAction({
        title: `Create #${name}?`,
        text: "There is no such room in the list.",
        action: "Create",
        act: () => this.open(name),
      });
  }

  #render() {
    const room = this.#chat.current;
    const name = room?.name ?? "";
    if (name !== this.#shownRoom) {
      this.#shownRoom = name;
      if (name && decoded() !== name) {
        // Back leads from room to room, but not to an address without one.
        const hash = `#${encodeURIComponent(name)}`;
        if (location.hash) history.pushState(null, "", hash);
        else history.replaceState(null, "", hash);
      }
    }
    this.#title.render();
    this.#search.render();
    this.#welcome.render();
    this.#renderTyping();
    find("composer", HTMLFormElement).hidden = !room;
    find("members-open", HTMLButtonElement).hidden = !room;
    const count = room?.count ?? 0;
    find("member-count", HTMLSpanElement).textContent = count ? count.toLocaleString() : "";
    find("members-open", HTMLButtonElement).ariaLabel = count ? plural(count, "member") : "Members";
    const elsewhere = this.#unread(room) > 0;
    find("rooms-dot", HTMLSpanElement).hidden = !elsewhere;
    this.#composer.render();
    this.#log.render();
    this.#sidebar.render();
    this.#renderBanner();
  }

  #renderPanels() {
    this.#rooms.render(this.#members.overlaid);
    this.#members.render(this.#rooms.overlaid);
    const over = this.#rooms.overlaid || this.#members.overlaid;
    find("scrim", HTMLDivElement).hidden = !over;
    find("main", HTMLElement).inert = over;
  }

  #closeDrawers() {
    this.#rooms.close();
    this.#members.close();
  }

  #renderBanner() {
    const { kind, text, wait, action, act } = this.#status();
    this.#banner.hidden = !kind;
    this.#banner.dataset.kind = kind;
    const { asking, connection, ready } = this.#chat;
    const { name } = connection.state;
    document.body.dataset.connection =
      name !== "open" || ready ? name : asking ? "asking" : "connecting";
    // Screen readers announce the text when it changes, so the seconds are apart.
    if (this.#bannerText.textContent !== text) this.#bannerText.textContent = text;
    this.#bannerWait.textContent = wait;
    this.#bannerAction.hidden = !action;
    this.#bannerAction.textContent = action;
    this.#bannerAct = act;
  }

  #status() {
    const { asking, connection, identity, outdated, ready } = this.#chat;
    const state = connection.state;
    const retry = () => connection.retryNow();
    const none = { kind: "", text: "", wait: "", action: "", act: () => {} };
    if (identity.tokenRequired && state.name !== "waiting") return none;
    if (state.name === "closed") {
      return { ...none, kind: "closed", text: state.reason, action: "Reconnect", act: retry };
    }
    const offline = connection.offline || (state.name !== "open" && !navigator.onLine);
    const network = "You are offline. Your messages will be sent when you are back.";
    if (state.name !== "waiting" && offline) return { ...none, kind: "offline", text: network };
    if (state.name === "open" && connection.late)
      return { ...none, kind: "late", text: "The server does not answer …" };
    if (state.name === "open" && (ready || asking)) {
      if (!outdated) return none;
      const text = "The server was updated. Reload this page.";
      return { ...none, kind: "outdated", text, action: "Reload", act: () => location.reload() };
    }
    const text = offline ? network : "Reconnecting …";
    if (state.name !== "waiting") return { ...none, kind: "connecting", text: "Connecting …" };
    const seconds = Math.ceil((state.until - performance.now()) / 1_000);
    const wait = seconds > 1 ? `in ${seconds} s` : "";
    return {
      ...none,
      kind: "waiting",
      text: state.reason ? `${text} (${state.reason})` : text,
      wait,
      action: "Retry now",
      act: retry,
    };
  }

  /** The members who are typing. */
  #renderTyping() {
    const nicks = this.#chat.current?.typing ?? [];
    const names = nicks.length > 3 ? "Several people" : LIST.format(nicks);
    const text = nicks.length ? `${names} ${nicks.length > 1 ? "are" : "is"} typing …` : "";
    const line = find("writers", HTMLParagraphElement);
    if (line.textContent !== text) line.textContent = text;
  }

  /** The unread messages of all rooms but one. @param {import("./room.js").Room | null} but */
  #unread(but) {
    const { listed, rooms } = this.#chat;
    let unread = 0;
    for (const room of rooms.values()) if (room !== but) unread += room.unread;
    for (const { room, nick, unread: more = 0 } of listed)
      if (nick && !rooms.has(room)) unread += more;
    return unread;
  }

  #renderTitle() {
    const unread = this.#unread(null);
    const room = this.#chat.current;
    const name = room ? `${room.direct ? "" : "#"}${room.label} · chatd` : "chatd";
    const title = unread ? `(${unread > 99 ? "99+" : unread}) ${name}` : name;
    if (document.title !== title) document.title = title;
  }

  /** @param {KeyboardEvent} event */
  #keyPressed(event) {
    if (event.key === "Escape" && !event.isComposing) {
      if (document.querySelector("dialog[open], :popover-open")) return;
      if (this.#rooms.overlaid || this.#members.overlaid) this.#closeDrawers();
      else if (this.#search.isOpen) this.#search.close();
      else this.#log.scrollToEnd();
    } else if (
      event.key.toLowerCase() === "f" &&
      event.shiftKey &&
      (event.ctrlKey || event.metaKey)
    ) {
      event.preventDefault();
      if (!this.#search.isOpen) this.#search.toggle();
    } else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      const names = [...this.#chat.rooms.keys()];
      const at = names.indexOf(this.#shownRoom) + (event.key === "ArrowUp" ? -1 : 1);
      const name = names.at(at % names.length);
      event.preventDefault();
      if (name) void this.open(name).catch(() => {});
    }
  }
}

/** The room in the address, or "". */
export function decoded() {
  try {
    return decodeURIComponent(location.hash.slice(1)).replace(/^#/, "");
  } catch {
    return "";
  }
}
