// @ts-check
/** Operators' actions on users and rooms, as menu items. */

import { Refused } from "./connection.js";
import { confirmAction } from "./dialog.js";
import { date, element } from "./text.js";

const DURATIONS = [
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["86400", "1 day"],
  ["604800", "1 week"],
  ["", "no time limit"],
];
const SLOW_SECONDS = 30;
const SLOWEST_SECONDS = 86_400;
// Nicks contain no such sign, and hardly ever digits and dots only.
const NETWORK = /[:/]|^[\d.]+$/;

/** @type {Record<"mute" | "kick" | "ban", {label: string, text: string, done: string}>} */
const ACTIONS = {
  mute: { label: "Mute", text: "They can still read, but cannot send messages.", done: "muted" },
  kick: { label: "Kick", text: "They are removed, but can rejoin.", done: "kicked" },
  ban: { label: "Ban", text: "They are removed and cannot rejoin.", done: "banned" },
};

/** What is in force, for the list. */
const KINDS = { ban: "banned", mute: "muted", slow: "slow mode", close: "closed" };

/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./menu.js").Item} Item */

/** @param {string} id @param {string} label @param {Record<string, string>} attributes */
function input(id, label, attributes) {
  const node = element("input", { id, "aria-label": label, ...attributes });
  return /** @type {HTMLInputElement} */ (node);
}

/** @param {string} id @param {string} label @param {string[][]} choices */
function select(id, label, choices) {
  const options = choices.map(([value, text]) => element("option", { value }, text));
  const node = element("select", { id, "aria-label": label }, ...options);
  return /** @type {HTMLSelectElement} */ (node);
}

function reasonInput() {
  return input("act-reason", "Reason", {
    maxlength: "200",
    placeholder: "Reason (they will see it)",
  });
}

function durationSelect() {
  return select("act-until", "Duration", DURATIONS);
}

export class Moderation {
  #chat;

  /** @param {import("./chat.js").Chat} chat */
  constructor(chat) {
    this.#chat = chat;
  }

  /**
   * What can be done to a user now.
   * @param {Room} room
   * @param {string} user
   * @param {string} nick
   * @returns {Item[]}
   */
  userItems(room, user, nick) {
    const member = room.members.get(user);
    if (member?.op) return [];
    /** @param {"mute" | "kick" | "ban"} act @returns {Item} */
    const item = (act) => {
      const dangerous = act !== "mute";
      return [`${ACTIONS[act].label} …`, () => void this.#act(act, room, user, nick), dangerous];
    };
    /** @param {"mute" | "ban"} act @param {string} label @returns {Item} */
    const eitherOf = (act, label) =>
      this.#chat.isHeld(act, room, user)
        ? [label, () => this.#attempt(() => this.#lift(`un${act}`, room, { user }, nick))]
        : item(act);
    // In a large room not all members are known.
    const here = member || room.direct || room.members.size < room.count;
    return [eitherOf("mute", "Unmute"), ...(here ? [item("kick")] : []), eitherOf("ban", "Unban")];
  }

  /** What can be done in a room now. @param {Room} room @returns {Item[]} */
  roomItems(room) {
    return [
      ["Slow mode …", () => void this.#slow(room)],
      this.#chat.isHeld("close", room)
        ? ["Reopen this room", () => this.#attempt(() => this.#reopen(room))]
        : ["Close this room …", () => void this.#close(room), true],
      ["Bans and mutes …", () => void this.#showHeld(room)],
      ["Unban …", () => void this.#unban(room)],
    ];
  }

  /** Lists what is in force here and everywhere, each with a button that lifts it. @param {Room} room */
  async #showHeld(room) {
    await this.#chat.refreshSanctions();
    const held = this.#chat.sanctions.filter((one) => !one.room || one.room === room.name);
    const rows = held.map((one) => {
      const end = one.until ? [" until ", date(Date.parse(one.until))] : [];
      const target = [one.nick ?? one.user, one.network].filter(Boolean).join(", ");
      const place = one.room ? `in #${one.room}` : "everywhere";
      const kind = KINDS[one.kind] ?? one.kind;
      const words = [target, `${kind} ${place}`].filter(Boolean).join(": ");
      const reason = one.reason ? `: ${one.reason}` : "";
      const lift = element("button", { type: "button", class: "small" }, "Lift");
      const row = element("li", {}, element("span", {}, words, ...end, reason), lift);
      lift.addEventListener("click", () => {
        this.#attempt(async () => {
          const { user, network } = one;
          const command = user || network ? `un${one.kind}` : one.kind;
          const seconds = user || network ? undefined : 0;
          await this.#chat.ask({ do: command, room: one.room, user, network, seconds });
          row.remove();
          await this.#chat.refreshSanctions();
        });
      });
      return row;
    });
    await confirmAction({
      title: `Bans and mutes in #${room.name}`,
      text: rows.length ? "" : "Nobody is banned or muted here.",
      action: "Done",
      fields: rows.length ? [element("ul", { class: "held" }, ...rows)] : [],
      act: async () => {},
    });
  }

  /**
   * @param {"mute" | "kick" | "ban"} act @param {Room} room
   * @param {string} user @param {string} nick
   */
  async #act(act, room, user, nick) {
    const reason = reasonInput();
    const until = durationSelect();
    const where = select("act-where", "Where", [
      ...(room.direct ? [] : [[room.name, `in #${room.name}`]]),
      ["", "everywhere"],
    ]);
    const { label, text, done } = ACTIONS[act];
    await confirmAction({
      title: `${label} ${nick}?`,
      text,
      action: label,
      danger: act !== "mute",
      fields: act === "kick" ? [reason, where] : [reason, where, until],
      act: async () => {
        const answer = await this.#chat.ask({
          do: act,
          user,
          room: where.value || undefined,
          seconds: act !== "kick" && until.value ? Number(until.value) : undefined,
          reason: reason.value.trim() || undefined,
        });
        await this.#chat.refreshSanctions();
        // The log itself says who was kicked.
        if (act === "kick") return;
        const time = until.value ? ` for ${until.selectedOptions[0].text}` : "";
        this.#chat.note(room, `${nick} is ${done} ${where.selectedOptions[0].text}${time}.`);
        if (answer.networks?.length === 0)
          this.#chat.note(
            room,
            `The address of ${nick} is not known, so they may come back as another guest.`,
          );
      },
    });
  }

  /** @param {Room} room */
  async #slow(room) {
    const seconds = input("act-seconds", "Seconds", {
      ...{ type: "number", min: "0", max: String(SLOWEST_SECONDS), step: "any", required: "" },
      value: String(SLOW_SECONDS),
    });
    await confirmAction({
      title: `Slow mode in #${room.name}`,
      text: "Seconds between two messages, for everyone except operators. 0 turns it off.",
      action: "Save",
      fields: [seconds],
      act: () => this.#chat.ask({ do: "slow", room: room.name, seconds: seconds.valueAsNumber }),
    });
  }

  /** @param {Room} room */
  async #close(room) {
    const reason = reasonInput();
    const until = durationSelect();
    await confirmAction({
      title: `Close #${room.name}?`,
      text: "Everyone except operators is removed and cannot rejoin.",
      action: "Close",
      danger: true,
      fields: [reason, until],
      act: async () => {
        await this.#chat.ask({
          do: "close",
          room: room.name,
          seconds: until.value ? Number(until.value) : undefined,
          reason: reason.value.trim() || undefined,
        });
        await this.#chat.refreshSanctions();
        this.#chat.note(room, "The room is closed to everyone except operators.");
      },
    });
  }

  /** @param {Room} room */
  async #reopen(room) {
    await this.#chat.ask({ do: "close", room: room.name, seconds: 0 });
    await this.#chat.refreshSanctions();
    this.#chat.note(room, "The room is open.");
  }

  /** @param {Room} room */
  async #unban(room) {
    const name = input("act-name", "Name or address", {
      ...{ required: "", autocapitalize: "none", spellcheck: "false" },
      placeholder: "Name or address that was banned",
    });
    await confirmAction({
      title: "Unban a user",
      text: `They can rejoin #${room.name} and all other rooms.`,
      action: "Unban",
      fields: [name],
      act: () => {
        const target = name.value.trim();
        const by = NETWORK.test(target) ? "network" : "nick";
        return this.#lift("unban", room, { [by]: target }, target);
      },
    });
  }

  /**
   * Lifts it in the room and everywhere; usually only one of the two exists.
   * @param {"unban" | "unmute"} act @param {Room} room
   * @param {Record<string, string>} target @param {string} name
   */
  async #lift(act, room, target, name) {
    const places = room.direct ? [undefined] : [room.name, undefined];
    const asked = places.map((place) => this.#chat.ask({ do: act, ...target, room: place }));
    const failed = (await Promise.allSettled(asked)).flatMap((each) =>
      each.status === "rejected" ? [each.reason] : [],
    );
    const none = (/** @type {unknown} */ error) =>
      error instanceof Refused && error.code === "not_found";
    if (failed.length === places.length || !failed.every(none))
      throw failed.find((error) => !none(error)) ?? failed[0];
    await this.#chat.refreshSanctions();
    this.#chat.note(room, `${name} is no longer ${act === "unban" ? "banned" : "muted"}.`);
  }

  /**
   * Performs an action that needs no dialog; an error is shown in the log.
   * @param {() => Promise<void>} act
   */
  #attempt(act) {
    act().catch((error) => this.#chat.report(error));
  }
}
