// Find cases: a text, or more like this slide or this place; results as thumbnails with the matching place outlined.
import { address, get, send, ServerError, slidePath } from "./api";
import { fill, h, iconButton } from "./dom";
import type { Finding } from "./findings";
import { failed } from "./notice";
import type { Pane, Rect } from "./pane";

interface Match {
  id: string;
  key: string | null;
  version: string | null;
  /** The archive has a small picture of it. */
  picture: boolean;
  score: number;
  size: [number, number];
  box: Rect | null;
  labels: Record<string, string>;
}

interface Page {
  total: number;
  page: number;
  pages: number;
  matches: Match[];
}

export interface CasesState {
  state: "absent" | "running" | "ready" | "failed";
  done?: number;
  total?: number;
  message?: string;
  left_out?: number;
  columns?: Record<string, string[]>;
}

type Query = { text: string } | { slide: string } | { slide: string; region: Rect };
const COLOR = "#a84b00";

export class Cases {
  readonly element: HTMLElement;
  private readonly input = h("input", { type: "text", "aria-label": "Text to find cases by", placeholder: "for example: keratin pearls", maxlength: "2000", autocomplete: "off" });
  private readonly progress = h("div", { class: "reading", role: "status" });
  private readonly filters = h("div", { class: "row" });
  private readonly results = h("div", { class: "results", "aria-live": "polite" });
  private readonly chosen = new Map<string, string>();
  private columns: Record<string, string[]> = {};
  private query: Query | null = null;
  private title = "";
  private waiting = false;

  constructor(
    private readonly active: () => Pane,
    private readonly region: () => Rect | null,
    private readonly open: (finding: Finding) => void,
  ) {
    const form = h("form", { class: "ask", onsubmit: (event: Event) => (event.preventDefault(), this.byText()) }, this.input, h("button", { class: "primary" }, "Find"));
    this.element = h(
      "section",
      {},
      h("h2", {}, "Find cases"),
      form,
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "secondary", onclick: () => this.bySlide() }, "More like this slide"),
        h("button", { type: "button", class: "secondary", onclick: () => this.byRegion() }, "More like this place"),
      ),
      this.filters,
      this.progress,
      this.results,
    );
    void this.load();
  }

  private async load(): Promise<void> {
    try {
      const state = await get<CasesState>("/api/cases");
      this.columns = state.columns ?? {};
      this.showFilters();
    } catch (error) {
      failed(error);
    }
  }

  private byText(): void {
    const text = this.input.value.trim();
    if (text) void this.find({ text }, 0, `“${text}”`);
  }

  private bySlide(): void {
    const slide = this.active().slide;
    if (slide) void this.find({ slide: slide.key }, 0, `like ${slide.id}`);
  }

  /** The chosen region, or what is in view. */
  private byRegion(): void {
    const pane = this.active();
    const slide = pane.slide;
    if (!slide) return;
    const drawn = this.region();
    const box = drawn ?? pane.inView();
    if (!box) return;
    const region = { x: Math.round(box.x), y: Math.round(box.y), width: Math.max(1, Math.round(box.width)), height: Math.max(1, Math.round(box.height)) };
    void this.find({ slide: slide.key, region }, 0, drawn ? "like the chosen region" : "like what is in view");
  }

  private async find(query: Query, page: number, title: string): Promise<void> {
    this.query = query;
    this.title = title;
    try {
      this.show(await send<Page>("POST", "/api/cases/find", { ...query, page, filters: Object.fromEntries(this.chosen) }));
    } catch (error) {
      if (!(error instanceof ServerError && error.status === 409)) return failed(error);
      this.waiting = true;
      this.message(await send<CasesState>("POST", "/api/cases"));
    }
  }

  private again(page = 0): void {
    if (this.query) void this.find(this.query, page, this.title);
  }

  /** How far the slides have been encoded. */
  message(state: CasesState): void {
    if (state.state === "running") {
      const bar = h("progress", { "aria-label": "Slides encoded", value: state.done ?? 0, max: state.total || 1 });
      return fill(this.progress, h("p", {}, `The model goes through ${state.total} slides: ${state.done} done.`), bar);
    }
    fill(this.progress, state.state === "failed" ? h("p", { class: "bad" }, state.message ?? "") : state.left_out ? h("p", {}, `${state.left_out} feature files do not fit the model and are left out.`) : null);
    if (state.state === "ready" && this.waiting) {
      this.waiting = false;
      this.again();
    }
  }

  private showFilters(): void {
    const names = Object.keys(this.columns).filter((name) => !this.chosen.has(name));
    if (!names.length && !this.chosen.size) return fill(this.filters);
    const column = h("select", { "aria-label": "Column to filter by", class: "small" }, h("option", { value: "" }, "filter …"), ...names.map((name) => h("option", { value: name }, name)));
    const value = h("select", { "aria-label": "Value to filter by", class: "small", hidden: true });
    column.addEventListener("change", () => {
      value.hidden = !column.value;
      fill(value, h("option", { value: "" }, "is …"), ...(this.columns[column.value] ?? []).map((text) => h("option", { value: text }, text)));
      value.focus();
    });
    value.addEventListener("change", () => {
      this.chosen.set(column.value, value.value);
      this.showFilters();
      this.again();
    });
    const chips = [...this.chosen].map(([name, text]) =>
      h("span", { class: "chip" }, `${name} = ${text}`, iconButton("close", `Remove filter ${name}`, () => {
        this.chosen.delete(name);
        this.showFilters();
        this.again();
      })),
    );
    fill(this.filters, ...chips, column, value);
  }

  private show(page: Page): void {
    const turn = (to: number, label: string) => h("button", { type: "button", class: "secondary", disabled: to < 0 || to >= page.pages, onclick: () => this.again(to) }, label);
    fill(
      this.results,
      h("p", { class: "quiet" }, `${page.total} slide${page.total === 1 ? "" : "s"}, ${this.title}; best first.`),
      h("ol", { class: "cases" }, ...page.matches.map((match) => this.card(match))),
      page.pages > 1 ? h("div", { class: "row" }, turn(page.page - 1, "Back"), h("span", {}, `${page.page + 1} of ${page.pages}`), turn(page.page + 1, "Next")) : null,
    );
  }

  private card(match: Match): HTMLElement {
    const frame = h("span", { class: "case-picture" });
    const source = match.key ? `${slidePath(match.key)}/thumbnail.jpg?v=${match.version}` : match.picture ? `/api/cases/picture.jpg?id=${encodeURIComponent(match.id)}` : "";
    if (source) {
      frame.append(h("img", { alt: "", loading: "lazy", src: address(source) }));
      if (match.box) {
        const mark = h("span", { class: "case-box" });
        const [width, height] = match.size;
        Object.assign(mark.style, {
          left: `${(100 * match.box.x) / width}%`,
          top: `${(100 * match.box.y) / height}%`,
          width: `${(100 * match.box.width) / width}%`,
          height: `${(100 * match.box.height) / height}%`,
        });
        frame.append(mark);
      }
    } else frame.append(h("span", { class: "thumb-none" }, "no slide file"));
    const labels = Object.entries(match.labels).map(([name, value]) => `${name} ${value}`).join(", ");
    const go = () => {
      if (!match.key) return;
      const [width, height] = match.size;
      const box = match.box ?? { x: 0, y: 0, width, height };
      this.open({ ...box, slide: match.key, label: "", color: COLOR, score: match.score });
    };
    const button = h("button", { type: "button", class: "case", disabled: !match.key, onclick: go }, frame, h("span", { class: "case-text" }, h("strong", {}, match.id), h("span", { class: "quiet" }, `score ${match.score.toFixed(2)}`), h("span", { class: "quiet" }, labels), match.key ? null : h("span", { class: "quiet" }, "not among the slides opened here")));
    return h("li", {}, button);
  }
}
