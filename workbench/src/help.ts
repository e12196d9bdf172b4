// The keys, in a dialog.
import { h, iconButton } from "./dom";

const KEYS: [string, string][] = [
  ["arrows", "move (Shift: a whole field)"],
  ["+  −", "zoom in, out"],
  ["r  R", "rotate right, left"],
  ["0", "whole slide"],
  ["n  p", "next, previous finding"],
  ["/", "ask where"],
  ["g", "all slides"],
  ["s", "side by side"],
  ["b  y  t", "draw a box, a polygon, a point; Enter sets a corner at the cross, f finishes, Esc ends"],
  ["Delete", "delete the chosen region"],
  ["?", "this list"],
];
const STORED = "pathflip-single-keys";

/** Letters work as keys unless switched off (for speech input, say). */
export const lettersWork = (): boolean => localStorage.getItem(STORED) !== "off";

export function showHelp(version: string): void {
  const check = h("input", { type: "checkbox", id: "single-keys" });
  check.checked = lettersWork();
  check.addEventListener("change", () => localStorage.setItem(STORED, check.checked ? "on" : "off"));
  const dialog = h(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    h("div", { class: "dialog-head" }, h("h2", { id: "help-title" }, "Keys"), iconButton("close", "Close", () => dialog.close())),
    h("dl", {}, ...KEYS.flatMap(([key, what]) => [h("dt", {}, key), h("dd", {}, what)])),
    h("label", { for: "single-keys", class: "check" }, check, "Letters alone work as keys"),
    h("p", { class: "quiet" }, `PathFLIP ${version}. Research software, not a medical device. Licences: `, h("a", { href: "./licenses.txt", target: "_blank" }, "OpenSeadragon")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
