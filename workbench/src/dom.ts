// Elements made from text. Nothing here ever parses HTML: what a file or a model says stays text.

type Child = Node | string | null | undefined | false;
type Props = Record<string, unknown>;

/** An element with attributes, listeners ("onclick") and children; null and false children are left out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  apply(element, props);
  for (const child of children) if (child) element.append(child);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function svg<K extends keyof SVGElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]) {
  const element = document.createElementNS(SVG, tag) as SVGElementTagNameMap[K];
  apply(element, props);
  for (const child of children) if (child) element.append(child);
  return element;
}

function apply(element: Element, props: Props): void {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Replace what an element holds. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren(...(children.filter(Boolean) as (Node | string)[]));
}

const ICONS: Record<string, string> = {
  grid: "M3 3h7v7H3zM14 3h7v7h-7zM3 14h7v7H3zM14 14h7v7h-7z",
  split: "M3 4h18v16H3zM12 4v16",
  rotate: "M20 12a8 8 0 1 1-3-6.2M20 3v5h-5",
  plus: "M12 4v16M4 12h16",
  minus: "M4 12h16",
  home: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 18v.5",
  close: "M6 6l12 12M18 6L6 18",
  pan: "M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3",
  polygon: "M5 8l8-4 7 7-5 9-9-3z",
  box: "M4 6h16v12H4z",
  point: "M12 21s7-6.5 7-11a7 7 0 1 0-14 0c0 4.500 7 11 7 11zM12 8.500v3",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 10.500a3 3 0 1 1 0 6 3 3 0 0 1 0-6z",
  panel: "M3 4h18v16H3zM15 4v16",
};

/** A line drawing; the button around it carries the words. */
export function icon(name: keyof typeof ICONS | string): SVGSVGElement {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" },
    svg("path", { d: ICONS[name] ?? "" }),
  );
}

/** A button with an icon and a name that is read out and shown on hovering. */
export function iconButton(name: string, label: string, onclick: () => void, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "tool", "aria-label": label, title: label, onclick, ...props }, icon(name));
}
