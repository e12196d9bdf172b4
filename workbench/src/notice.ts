// One line at the bottom for what went wrong or was done; read out by screen readers.
import { h, iconButton } from "./dom";

const list = h("div", { class: "notices", role: "status", "aria-live": "polite" });
const SHOWN_MS = 8000;

export function mountNotices(): HTMLElement {
  return list;
}

/** Show a line; the same line is not shown twice at once. */
export function notice(text: string, kind: "info" | "error" = "info"): void {
  for (const shown of list.children) if ((shown as HTMLElement).dataset.text === text) return;
  const item = h("div", { class: `notice ${kind}` }, h("span", {}, text));
  item.dataset.text = text;
  const close = () => item.remove();
  item.append(iconButton("close", "Dismiss", close));
  list.append(item);
  while (list.children.length > 3) list.firstElementChild?.remove();
  if (kind === "info") setTimeout(close, SHOWN_MS);
}

/** Report a failure in the server's words. */
export function failed(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  notice(error instanceof Error ? error.message : String(error), "error");
}
