// @ts-check
/** The lists of rooms and members, and the user's own name. */

import { explain } from "./connection.js";
import { Palette } from "./palette.js";
import { avatar, coloured, element, find, icon, plural } from "./text.js";

const PERSON = "M12 11a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7M5 20c0-4 3-6 7-6s7 2 7 6";

/**
 * Updates a list, keeping unchanged rows, so that they keep focus and hover.
 * @param {HTMLElement} list
 * @param {{key: string, shape: string, make: () => HTMLElement}[]} rows
 */
function fill(list, rows) {
  const old = new Map();
  for (const node of /** @type {HTMLElement[]} */ ([...list.children]))
    old.set(node.dataset.key, node);
  const nodes = rows.map(({ key, shape, make }) => {
    const known = old.get(key);
    if (known?.dataset.shape === shape) return known;
    const node = make();
    node.dataset.key = key;
    node.dataset.shape = shape;
    if (known?.contains(document.activeElement))
      queueMicrotask(() => node.querySelector("button")?.focus());
    return node;
  });
  if (
    nodes.length !== list.children.length ||
    nodes.some((node, index) => node !== list.children[index])
  ) {
    list.replaceChildren(...nodes);
  }
}

/** @param {number} unread */
function badge(unread) {
  const count = unread > 99 ? "99+" : String(unread);
  return element(
    "span",
    { class: "badge" },
    count,
    element("span", { class: "unseen" }, " unread"),
  );
}

export class Sidebar {
  #chat;
  #open;
  #roomList = find("room-list", HTMLUListElement);
  #directs = find("directs", HTMLDivElement);
  #directList = find("direct-list", HTMLUListElement);
  #otherRooms = find("other-rooms", HTMLDivElement);
  #otherList = find("other-list", HTMLUListElement);
  #memberList = find("member-list", HTMLUListElement);
  #membersMore = find("members-more", HTMLButtonElement);
  #joinName = find("join-name", HTMLInputElement);
  #joinError = find("join-error", HTMLParagraphElement);
  #nick = find("me-nick", HTMLButtonElement);
  #nickForm = find("nick-form", HTMLFormElement);
  #nickInput = find("nick-input", HTMLInputElement);
  #nickError = find("nick-error", HTMLParagraphElement);
  #face = "";
  /** For people outside of a room. */
  #palette = new Palette();

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {(name: string) => Promise<void>} open
   */
  constructor(chat, open) {
    this.#chat = chat;
    this.#open = open;
    find("join", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#join();
    });
    this.#joinName.addEventListener("input", () => (this.#joinError.textContent = ""));
    // The user is about to choose a room: show the current list.
    this.#joinName.addEventListener("focus", () => void chat.refreshList());
    for (const list of [this.#roomList, this.#directList, this.#otherList]) {
      list.addEventListener("click", (event) => {
        const row = event.target instanceof Element ? event.target.closest("li") : null;
        if (row?.dataset.key) void this.#enter(row.dataset.key);
      });
    }
    this.#membersMore.addEventListener("click", () => {
      if (chat.current) void chat.loadMembers(chat.current, false);
    });
    this.#nick.addEventListener("click", () => this.#editNick(true));
    this.#nickForm.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#rename();
    });
    this.#nickForm.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.#editNick(false);
    });
    this.#nickForm.addEventListener("focusout", (event) => {
      const to = event.relatedTarget;
      if (
        !(to instanceof Node && this.#nickForm.contains(to)) &&
        this.#nickInput.value === chat.nick
      ) {
        this.#editNick(false, false);
      }
    });
  }

  render() {
    const { current, rooms, listed } = this.#chat;
    fill(
      this.#roomList,
      [...rooms.values()]
        .filter((room) => !room.direct)
        .map((room) => this.#roomRow(room, room === current)),
    );
    this.#renderDirects();
    const others = listed.filter((each) => !rooms.has(each.room) && !each.room.startsWith("@"));
    this.#otherRooms.hidden = others.length === 0;
    fill(
      this.#otherList,
      others.map(({ room, members }) => ({
        key: room,
        shape: String(members),
        make: () =>
          element(
            "li",
            {},
            element(
              "button",
              { type: "button" },
              element("span", { class: "hash" }, "#"),
              element("bdi", {}, room),
              this.#count(members),
            ),
          ),
      })),
    );
    this.#renderMembers();
    const hue = (current?.palette ?? this.#palette).hue(this.#chat.user);
    const face = `${this.#chat.user} ${this.#chat.nick} ${hue}`;
    if (face !== this.#face) {
      this.#face = face;
      find("me-avatar", HTMLSpanElement).replaceChildren(avatar(this.#chat.nick, hue));
      find("me-name", HTMLElement).textContent = this.#chat.nick;
      this.#nick.setAttribute("aria-label", `You are ${this.#chat.nick}. Change your name`);
    }
  }

  /** The open conversations and those that the server has stored. */
  #renderDirects() {
    const { current, directs, rooms, listed } = this.#chat;
    /** @type {Map<string, {nick: string, unread: number}>} */
    const found = new Map();
    for (const room of rooms.values())
      if (room.direct)
        found.set(room.name, { nick: room.label, unread: room === current ? 0 : room.unread });
    for (const { room, nick, unread = 0 } of listed)
      if (room.startsWith("@") && !found.has(room) && (unread || !directs.closed.has(room)))
        found.set(room, { nick: nick ?? "Unknown user", unread });
    this.#directs.hidden = !found.size;
    fill(
      this.#directList,
      [...found].map(([name, { nick, unread }]) => ({
        key: name,
        shape: `${name === current?.name} ${unread} ${nick}`,
        make: () => {
          const user = directs.usersOf(name).find((each) => each !== this.#chat.user) ?? "";
          const button = element(
            "button",
            {
              type: "button",
              "aria-current": name === current?.name && "true",
              class: unread ? "unread" : "",
            },
            avatar(nick, this.#palette.hue(user)),
            element("bdi", {}, nick),
          );
          if (unread) button.append(badge(unread));
          return element("li", {}, button);
        },
      })),
    );
  }

  /** @param {number} members */
  #count(members) {
    return element(
      "span",
      { class: "count", title: plural(members, "member") },
      icon(PERSON),
      members.toLocaleString(),
      element("span", { class: "unseen" }, " members"),
    );
  }

  /** @param {import("./room.js").Room} room @param {boolean} current */
  #roomRow(room, current) {
    const unread = current ? 0 : room.unread;
    const known = this.#chat.listed.find((each) => each.room === room.name);
    const members = room.joined ? room.count : room.refused ? 0 : (known?.members ?? 0);
    return {
      key: room.name,
      shape: `${current} ${unread} ${members} ${Boolean(room.refused)}`,
      make: () => {
        const button = element(
          "button",
          {
            type: "button",
            "aria-current": current && "true",
            class: unread ? "unread" : room.refused ? "refused" : "",
          },
          element("span", { class: "hash" }, "#"),
          element("bdi", {}, room.name),
        );
        if (unread) {
          button.append(badge(unread));
        } else if (members) {
          button.append(this.#count(members));
        }
        return element("li", {}, button);
      },
    };
  }

  #renderMembers() {
    const room = this.#chat.current;
    const members = room ? [...room.members.values()] : [];
    members.sort((a, b) => a.nick.localeCompare(b.nick));
    const isMuted = (/** @type {import("./room.js").Member} */ { user }) =>
      Boolean(room && this.#chat.isHeld("mute", room, user));
    fill(
      this.#memberList,
      members.map((member) => ({
        key: member.user,
        shape: `${member.nick} ${member.op} ${isMuted(member)} ${member.user === this.#chat.user}`,
        make: () => {
          const hue = this.#chat.current?.palette.hue(member.user) ?? 0;
          const nick = coloured(element("bdi", { class: "nick" }, member.nick), hue);
          const mine = member.user === this.#chat.user;
          const row = element(
            mine ? "span" : "button",
            mine ? {} : { type: "button", "aria-haspopup": "menu" },
            avatar(member.nick, hue),
            nick,
          );
          if (mine) row.append(element("span", { class: "tag" }, "you"));
          if (member.op) row.append(element("span", { class: "tag" }, "operator"));
          if (isMuted(member)) row.append(element("span", { class: "tag" }, "muted"));
          return element("li", {}, row);
        },
      })),
    );
    const rest = room ? room.count - members.length : 0;
    this.#membersMore.hidden = rest <= 0;
    this.#membersMore.textContent = `Show more (${rest.toLocaleString()})`;
  }

  async #join() {
    const name = this.#joinName.value.trim().replace(/^#/, "");
    if (name && (await this.#enter(name))) this.#joinName.value = "";
  }

  /** @param {string} name */
  async #enter(name) {
    this.#joinError.textContent = "";
    try {
      await this.#open(name);
      return true;
    } catch (error) {
      this.#joinError.textContent = explain(error);
      return false;
    }
  }

  /** @param {boolean} on @param {boolean} back whether the focus returns to the button */
  #editNick(on, back = true) {
    this.#nickForm.hidden = !on;
    this.#nick.hidden = on;
    this.#nickError.textContent = "";
    if (on) {
      this.#nickInput.value = this.#chat.nick;
      this.#nickInput.select();
    } else if (back) this.#nick.focus();
  }

  async #rename() {
    const nick = this.#nickInput.value.trim();
    if (!nick || nick === this.#chat.nick) {
      this.#editNick(false);
      return;
    }
    try {
      await this.#chat.rename(nick);
      this.#editNick(false);
    } catch (error) {
      this.#nickError.textContent = explain(error);
    }
  }
}
