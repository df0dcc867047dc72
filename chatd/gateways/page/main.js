// @ts-check
/** The page's entry point. */

import { Chat } from "./chat.js";
import { decoded, View } from "./view.js";

const url = new URL("ws", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
url.search = url.hash = "";

/** A setting that the server wrote into the page. @param {string} name */
function setting(name) {
  return document.querySelector(`meta[name="chatd-${name}"]`)?.getAttribute("content") ?? "";
}

/** @type {View | undefined} */
let view;
const chat = new Chat(url.href, setting("room"), () => view?.changed());
view = new View(chat, setting("auth") === "token", setting("greeting"));

addEventListener("hashchange", () => {
  const name = decoded();
  // A refused room shows the reason itself.
  if (name && name !== chat.current?.name) void view.open(name).catch(() => {});
});
void chat.start(decoded());
view.changed();
