// @ts-check
/** The "/" commands of the composer: what a typed text means, and what each command does. */

import { Refused } from "./connection.js";

const UNIT_SECONDS = { s: 1, m: 60, h: 3_600, d: 86_400 };
const MAX_SHOWN = 100;

/**
 * @typedef {import("./room.js").Room} Room
 * @typedef {{chat: import("./chat.js").Chat, room: Room, replyTo: number,
 *   open: (name: string) => Promise<void>, search: (query: string) => void}} Scene
 * @typedef {(word: string) => any} Read returns undefined for an invalid word
 * @typedef {object} Parameter
 * @property {string} name
 * @property {Read} read
 * @property {boolean} rest whether it takes the rest of the text
 * @property {boolean} optional
 * @typedef {object} Verb
 * @property {string} help
 * @property {Parameter[]} parameters
 * @property {boolean} operators whether it is for operators only
 * @property {(scene: Scene, ...values: any[]) => Promise<string | void>} act returns a text to show
 * @typedef {{say: string} | {act: (scene: Scene) => Promise<string | void>} | {fault: string, unknown: boolean}} Meaning
 */

/** @param {string} name @param {Read} read @returns {Parameter} */
const word = (name, read = String) => ({ name, read, rest: false, optional: false });
/** @param {string} name @returns {Parameter} */
const rest = (name) => ({ name, read: String, rest: true, optional: false });
/** @param {Parameter} parameter @returns {Parameter} */
const optional = (parameter) => ({ ...parameter, optional: true });

/** @param {string} text such as 90s, 15m, 12h or 30d */
function seconds(text) {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  return Number(count) * UNIT_SECONDS[/** @type {"s"} */ (unit)] || undefined;
}

/** @param {string} text */
function pause(text) {
  return text === "0" ? 0 : seconds(text);
}

/** @param {string} text @param {string} sign */
function without(text, sign) {
  return text.startsWith(sign) ? text.slice(1) : text;
}

const NICK = word("NICK");
const ROOM = word("ROOM");
const TEXT = rest("TEXT");
const TIME = optional(word("TIME", seconds));
const REASON = optional(rest("REASON"));

/** @type {Map<string, Verb>} */
const VERBS = new Map();

/**
 * @param {string} name
 * @param {string} help
 * @param {Parameter[]} parameters
 * @param {Verb["act"]} act
 */
function verb(name, help, parameters, act, operators = false) {
  VERBS.set(name, { help, parameters, act, operators });
}

/**
 * @param {string} name
 * @param {string} help
 * @param {Parameter[]} parameters
 * @param {Verb["act"]} act
 */
function operatorVerb(name, help, parameters, act) {
  /** @type {Verb["act"]} */
  const actAndSee = async (scene, ...values) => {
    const answer = await act(scene, ...values);
    void scene.chat.refreshSanctions();
    return answer;
  };
  verb(name, help, parameters, actAndSee, true);
}

/** @param {string} name @param {Verb} verb */
function usage(name, { parameters }) {
  const words = parameters.map((each) => (each.optional ? `[${each.name}]` : each.name));
  return [`/${name}`, ...words].join(" ");
}

verb("help", "Show this list.", [], async ({ chat }) => {
  const shown = [...VERBS].filter(([, each]) => chat.op || !each.operators);
  const lines = shown.map(([name, each]) => `${usage(name, each)}: ${each.help}`);
  return [...lines, "// begins a message with a slash."].join("\n");
});
verb(
  "join",
  "Go to a room, or with @NICK to your direct messages with NICK.",
  [ROOM],
  async ({ open }, room) => await open(without(room, "#")),
);
verb("leave", "Leave this room.", [], async ({ chat, room }) => await chat.leave(room));
verb("rooms", "List the rooms.", [], async ({ chat }) => {
  await chat.refreshList();
  const names = chat.listed.filter(({ room }) => !room.startsWith("@"));
  return names.map(({ room, members }) => `#${room} (${members})`).join(", ") || "No rooms.";
});
verb(
  "who",
  "List the members of this room, or of ROOM.",
  [optional(ROOM)],
  async ({ chat, room }, name) => {
    const asked = name ? without(name, "#") : room.name;
    const found = await chat.ask({ do: "who", room: asked, limit: MAX_SHOWN });
    const nicks = found.members.map((/** @type {import("./room.js").Member} */ each) =>
      each.op ? `${each.nick} (operator)` : each.nick,
    );
    const more = found.member_count - nicks.length;
    return nicks.join(", ") + (more > 0 ? ` and ${more.toLocaleString()} more` : "");
  },
);
verb("nick", "Change your name to NICK.", [NICK], async ({ chat }, nick) => {
  await chat.rename(nick);
  return `You are now ${chat.nick}.`;
});
verb("me", "Say what you are doing.", [TEXT], async ({ chat, replyTo }, text) =>
  chat.say(`_${text}_`, replyTo),
);
verb("msg", "Send a direct message to NICK.", [NICK, TEXT], async ({ chat, open }, nick, text) => {
  await open(`@${without(nick, "@")}`);
  chat.say(text, 0);
});
verb("history", "Show earlier messages.", [], async () => "Scroll up to see earlier messages.");
verb("search", "Find messages in this room.", [rest("WORDS")], async ({ search }, query) =>
  search(query),
);
verb(
  "topic",
  "Set the topic of this room; - removes it.",
  [TEXT],
  async ({ chat, room }, text) =>
    void (await chat.ask({ do: "topic", room: room.name, text: text === "-" ? "" : text })),
);
verb("auth", "Sign in with a token.", [word("TOKEN")], async ({ chat }, token) =>
  chat.signIn(token, false),
);
verb("quit", "End the connection.", [], async ({ chat }) => chat.connection.quit());

operatorVerb(
  "kick",
  "Remove NICK from this room.",
  [NICK, REASON],
  async ({ chat, room }, nick, reason) =>
    void (await chat.ask({ do: "kick", room: room.name, nick: without(nick, "@"), reason })),
);
for (const [name, done, help, opposite] of [
  ["ban", "banned", "Keep NICK out, for TIME.", "Let NICK in again."],
  [
    ...["mute", "muted"],
    ...["Keep NICK from sending messages, for TIME.", "Let NICK send messages again."],
  ],
]) {
  operatorVerb(name, help, [NICK, TIME, REASON], async ({ chat, room }, nick, time, reason) => {
    const whom = without(nick, "@");
    await chat.ask({ do: name, room: room.name, nick: whom, seconds: time, reason });
    return `${whom} is ${done}.`;
  });
  operatorVerb(`un${name}`, opposite, [NICK], async ({ chat, room }, nick) => {
    const whom = without(nick, "@");
    await chat.ask({ do: `un${name}`, room: room.name, nick: whom });
    return `${whom} is no longer ${done}.`;
  });
}
operatorVerb(
  "slow",
  "Make members wait TIME between two messages; 0 ends it.",
  [word("TIME", pause)],
  async ({ chat, room }, time) =>
    void (await chat.ask({ do: "slow", room: room.name, seconds: time })),
);
operatorVerb(
  "close",
  "Close this room, for TIME; 0 opens it.",
  [optional(word("TIME", pause)), REASON],
  async ({ chat, room }, time, reason) => {
    await chat.ask({ do: "close", room: room.name, seconds: time, reason });
    return time === 0 ? "The room is open." : "The room is closed.";
  },
);

/** Whether a text is meant as a command. @param {string} text */
export function isCommand(text) {
  return text.startsWith("/") && !text.startsWith("//");
}

/** What a typed text means. @param {string} typed @returns {Meaning} */
export function read(typed) {
  if (typed.startsWith("//")) return { say: typed.slice(1) };
  if (!isCommand(typed)) return { say: typed };
  const [, name = "", given = ""] = /^\/(\S*)\s*([^]*)$/.exec(typed) ?? [];
  const known = VERBS.get(name.toLowerCase());
  if (!known)
    return {
      fault: `There is no command /${name.slice(0, 32)}. Type /help for the list.`,
      unknown: true,
    };
  const values = readAll(known.parameters, given);
  if (!values)
    return { fault: `Type ${usage(name.toLowerCase(), known)}. ${known.help}`, unknown: false };
  return { act: (scene) => known.act(scene, ...values) };
}

/** The values of the parameters; null if the words do not fit. @param {Parameter[]} parameters @param {string} given */
function readAll(parameters, given) {
  const values = [];
  for (const parameter of parameters) {
    const first = parameter.rest ? given : (/^\S+/.exec(given)?.[0] ?? "");
    const value = first ? parameter.read(first) : undefined;
    if (value === undefined && !parameter.optional) return null;
    values.push(value);
    if (value !== undefined) given = given.slice(first.length).trimStart();
  }
  return given ? null : values;
}

// As plain text and the terminal send `/me`: the whole text between underscores. Words between
// underscores within it are emphasis.
const ACTION = /^_(?![_\s])((?:(?!_\s|\s_)[^])+)(?<![_\s])_$/;

/** What a message says that its author does, or null. @param {string} text */
export function actionIn(text) {
  return ACTION.exec(text)?.[1] ?? null;
}

/** A message as its author would type it: the reverse of `read`. @param {string} text */
export function typedFor(text) {
  const action = actionIn(text);
  if (action) return `/me ${action}`;
  return text.startsWith("/") ? `/${text}` : text;
}

/**
 * The text of a message that is being edited.
 * @param {string} typed
 * @returns {string} throws Refused for a command
 */
export function readEdit(typed) {
  const action = /^\/me\s+([^]+)$/.exec(typed)?.[1];
  if (action) return `_${action}_`;
  if (!isCommand(typed)) return typed.startsWith("//") ? typed.slice(1) : typed;
  const message = "A command cannot replace a message. Type // to begin a message with a slash.";
  throw new Refused({ code: "bad_request", message });
}
