// @ts-check
/** What operators do, to people and to rooms: each as an item of a menu, with what it asks for. */

import { Refused } from "./connection.js";
import { confirmed } from "./dialog.js";
import { element } from "./text.js";

const UNTIL = [
  ["600", "10 minutes"],
  ["3600", "an hour"],
  ["86400", "a day"],
  ["604800", "a week"],
  ["", "until it is taken back"],
];
const SLOW_SECONDS = 30;
const SLOWEST_SECONDS = 86_400;
// A nick has neither sign; what is of numbers and dots alone is hardly one.
const NETWORK = /[:/]|^[\d.]+$/;

/** @type {Record<"mute" | "kick" | "ban", {does: string, text: string}>} */
const ACTS = {
  mute: { does: "Mute", text: "They may read on, and say nothing." },
  kick: { does: "Kick", text: "They are put out, and may come back." },
  ban: { does: "Ban", text: "They are put out and kept out." },
};

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

function reasons() {
  return input("act-reason", "Reason", { maxlength: "200", placeholder: "Reason, told to them" });
}

function ends() {
  return select("act-until", "For how long", UNTIL);
}

export class Moderation {
  #chat;

  /** @param {import("./chat.js").Chat} chat */
  constructor(chat) {
    this.#chat = chat;
  }

  /** @param {Room} room @param {string} user @param {string} nick @returns {Item[]} */
  ofPerson(room, user, nick) {
    const acts = /** @type {("mute" | "kick" | "ban")[]} */ (Object.keys(ACTS));
    /** @param {"mute" | "kick" | "ban"} act @returns {Item} */
    const item = (act) => [`${ACTS[act].does} …`, () => void this.#act(act, room, user, nick)];
    return [
      ...acts.map(item),
      ["Unmute", () => this.#try(() => this.#lift("unmute", room, { user }, nick))],
      ["Unban", () => this.#try(() => this.#lift("unban", room, { user }, nick))],
    ];
  }

  /** @param {Room} room @returns {Item[]} */
  ofRoom(room) {
    return [
      ["Slow mode …", () => void this.#slow(room)],
      ["Close this room …", () => void this.#close(room)],
      ["Open it again", () => this.#try(() => this.#reopen(room))],
      ["Unban …", () => void this.#unban(room)],
    ];
  }

  /**
   * @param {"mute" | "kick" | "ban"} act @param {Room} room
   * @param {string} user @param {string} nick
   */
  async #act(act, room, user, nick) {
    const reason = reasons();
    const until = ends();
    const where = select("act-where", "Where", [
      ...(room.direct ? [] : [[room.name, `in #${room.name}`]]),
      ["", "everywhere"],
    ]);
    const { does, text } = ACTS[act];
    await confirmed({
      title: `${does} ${nick}?`,
      text,
      action: does,
      fields: act === "kick" ? [reason, where] : [reason, where, until],
      act: () =>
        this.#chat.ask({
          do: act,
          user,
          room: where.value || undefined,
          seconds: act !== "kick" && until.value ? Number(until.value) : undefined,
          reason: reason.value.trim() || undefined,
        }),
    });
  }

  /** @param {Room} room */
  async #slow(room) {
    const seconds = input("act-seconds", "Seconds", {
      ...{ type: "number", min: "0", max: String(SLOWEST_SECONDS), step: "any", required: "" },
      value: String(SLOW_SECONDS),
    });
    await confirmed({
      title: `Slow #${room.name} down?`,
      text: "So many seconds everybody but operators waits between two messages; 0 ends it.",
      action: "Set",
      fields: [seconds],
      act: () => this.#chat.ask({ do: "slow", room: room.name, seconds: seconds.valueAsNumber }),
    });
  }

  /** @param {Room} room */
  async #close(room) {
    const reason = reasons();
    const until = ends();
    await confirmed({
      title: `Close #${room.name}?`,
      text: "Everybody but operators is put out and kept out.",
      action: "Close",
      fields: [reason, until],
      act: async () => {
        await this.#chat.ask({
          do: "close",
          room: room.name,
          seconds: until.value ? Number(until.value) : undefined,
          reason: reason.value.trim() || undefined,
        });
        this.#chat.note(room, "The room is closed to all but operators.");
      },
    });
  }

  /** @param {Room} room */
  async #reopen(room) {
    await this.#chat.ask({ do: "close", room: room.name, seconds: 0 });
    this.#chat.note(room, "The room is open.");
  }

  /** @param {Room} room */
  async #unban(room) {
    const name = input("act-name", "Name or address", {
      ...{ required: "", autocapitalize: "none", spellcheck: "false" },
      placeholder: "Name or address, as it was banned",
    });
    await confirmed({
      title: "Unban whom?",
      text: `They may come into #${room.name} again, and into all else.`,
      action: "Unban",
      fields: [name],
      act: () => {
        const whom = name.value.trim();
        const by = NETWORK.test(whom) ? "network" : "nick";
        return this.#lift("unban", room, { [by]: whom }, whom);
      },
    });
  }

  /**
   * Takes back what there is, in the room and everywhere: mostly it is but one of both.
   * @param {"unban" | "unmute"} act @param {Room} room
   * @param {Record<string, string>} whom @param {string} name
   */
  async #lift(act, room, whom, name) {
    const places = room.direct ? [undefined] : [room.name, undefined];
    const asked = places.map((place) => this.#chat.ask({ do: act, ...whom, room: place }));
    const failed = (await Promise.allSettled(asked)).flatMap((each) =>
      each.status === "rejected" ? [each.reason] : [],
    );
    const none = (/** @type {unknown} */ error) =>
      error instanceof Refused && error.code === "not_found";
    if (failed.length === places.length || !failed.every(none))
      throw failed.find((error) => !none(error)) ?? failed[0];
    this.#chat.note(room, `${name} may ${act === "unban" ? "come in" : "speak"} again.`);
  }

  /**
   * Does what asks for nothing more; where it cannot be done, that is said in the log.
   * @param {() => Promise<void>} act
   */
  #try(act) {
    act().catch((error) => this.#chat.tell(error));
  }
}
