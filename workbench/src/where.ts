// Ask where: phrases in, heat over the slide and the best places out.
import { get, send, ServerError, slidePath } from "./api";
import { fill, h, iconButton } from "./dom";
import type { Finding, Findings } from "./findings";
import { HeatLayer, PHRASE_COLORS, scaleColor, type HeatMap } from "./heat";
import { failed } from "./notice";
import type { Pane, Rect } from "./pane";
import type { Reading } from "./reading";

interface Answer {
  text: string;
  notes: string[];
  unknown: boolean;
  negated?: boolean;
  presence?: number | null;
  regions?: { x: number; y: number; width: number; height: number; score: number }[];
  map?: HeatMap;
}

const MOST_PHRASES = PHRASE_COLORS.length;

export class Where {
  readonly element: HTMLElement;
  private readonly input = h("input", { type: "text", "aria-label": "Phrase to look for", placeholder: "for example: necrosis", maxlength: "400", autocomplete: "off" });
  private readonly results = h("div", { class: "results" });
  private readonly controls = h("div", { class: "controls", hidden: true });
  private readonly scale = h("div", { class: "color-bar" });
  private readonly thresholdText = h("output", {});
  private readonly layers: Map<Pane, HeatLayer>;
  private readonly answers = new Map<string, Answer>();
  private phrases: string[] = [];
  private visible = true;
  private slide = "";

  constructor(
    private readonly panes: Pane[],
    private readonly active: () => Pane,
    private readonly findings: Findings,
    private readonly reading: Reading,
    private readonly asks: boolean,
    private readonly keep: (key: string, boxes: Rect[], name: string, color: string) => void,
  ) {
    this.layers = new Map(panes.map((pane) => [pane, new HeatLayer(pane)]));
    const form = h(
      "form",
      { class: "ask", onsubmit: (event: Event) => (event.preventDefault(), this.add()) },
      this.input,
      h("button", { class: "primary" }, "Show"),
    );
    this.controls.append(
      this.scale,
      this.slider("Threshold", 0.5, (value) => {
        for (const layer of this.layers.values()) {
          layer.threshold = value;
          layer.paint();
        }
        this.showThreshold();
      }, this.thresholdText),
      this.slider("Opacity", 0.6, (value) => {
        for (const [pane, layer] of this.layers) {
          layer.opacity = value;
          pane.redraw();
        }
      }),
    );
    this.element = h("section", {}, h("h2", {}, "Where is it?"), asks ? form : null, this.reading.element, this.controls, this.results);
  }

  focus(): void {
    this.input.focus();
    this.input.select();
  }

  /** Another slide is looked at: the same phrases are asked of it. */
  async slideChanged(): Promise<void> {
    const key = this.active().slide?.key ?? "";
    if (key === this.slide) return;
    this.slide = key;
    this.render();
    if (!key) return;
    await this.loadMaps(key);
    if (!this.asks) return;
    await this.reading.of(key);
    for (const phrase of this.phrases) void this.ask(key, phrase);
  }

  /** Maps that were made elsewhere, in a notebook. */
  private async loadMaps(key: string): Promise<void> {
    for (const answer of await get<Answer[]>(`${slidePath(key)}/maps`)) {
      if (!this.answers.has(`${key}\n${answer.text}`) && !this.phrases.includes(answer.text)) this.phrases.push(answer.text);
      this.answers.set(`${key}\n${answer.text}`, answer);
    }
    this.render();
  }

  private slider(name: string, value: number, onchange: (value: number) => void, output?: HTMLOutputElement): HTMLElement {
    const input = h("input", { type: "range", min: "0", max: "1", step: "0.01", value: String(value) });
    input.addEventListener("input", () => onchange(input.valueAsNumber));
    return h("label", { class: "slider" }, h("span", {}, name), input, output ?? h("span", {}));
  }

  private add(): void {
    const text = this.input.value.trim();
    const key = this.active().slide?.key;
    if (!text || !key) return;
    if (!this.phrases.includes(text)) this.phrases = [...this.phrases, text].slice(-MOST_PHRASES);
    this.input.value = "";
    this.slide = key;
    void this.ask(key, text);
  }

  private async ask(key: string, text: string): Promise<void> {
    const known = `${key}\n${text}`;
    if (this.answers.has(known)) return this.render();
    const began = performance.now();
    try {
      this.answers.set(known, await send<Answer>("POST", `${slidePath(key)}/where`, { text }));
    } catch (error) {
      if (error instanceof ServerError && error.status === 409) {
        await this.reading.begin(key, () => void this.ask(key, text));
        return this.render();
      }
      this.phrases = this.phrases.filter((phrase) => phrase !== text);
      failed(error);
      return this.render();
    }
    this.render();
    requestAnimationFrame(() => performance.measure("heat", { start: began, end: performance.now() }));
  }

  private remove(text: string): void {
    this.phrases = this.phrases.filter((phrase) => phrase !== text);
    this.render();
    this.input.focus();
  }

  private answerOf(key: string, text: string): Answer | undefined {
    return this.answers.get(`${key}\n${text}`);
  }

  /** Another job is chosen: its places are shown instead. */
  setVisible(visible: boolean): void {
    this.visible = visible;
    this.render();
  }

  /** Bring heat, list and outlines in line with phrases and slides. */
  render(): void {
    for (const [pane, layer] of this.layers) {
      const maps = this.phrases.flatMap((text, index) => {
        const map = pane.slide && this.answerOf(pane.slide.key, text)?.map;
        return map && this.visible ? [{ map, color: this.phrases.length > 1 ? PHRASE_COLORS[index]! : null }] : [];
      });
      layer.set(maps);
    }
    const answers = this.phrases.map((text) => this.answerOf(this.slide, text));
    const findings = answers.flatMap((answer, index) =>
      (answer?.regions ?? []).map<Finding>((region, rank) => ({
        ...region,
        slide: this.slide,
        label: String(rank + 1),
        color: this.phrases.length > 1 ? PHRASE_COLORS[index]! : "#0a5c68",
      })),
    );
    if (this.visible) this.findings.set(findings);
    fill(this.results, ...this.phrases.map((text, index) => this.card(text, index, answers[index], findings)));
    const first = answers.find((answer) => answer?.map);
    this.controls.hidden = !first;
    if (first?.map) this.showScale(first.map);
  }

  private card(text: string, index: number, answer: Answer | undefined, findings: Finding[]): HTMLElement {
    const several = this.phrases.length > 1;
    const head = h("div", { class: "phrase" }, h("strong", {}, text), iconButton("close", `Remove ${text}`, () => this.remove(text)));
    if (several) head.style.setProperty("--color", PHRASE_COLORS[index]!);
    const card = h("article", { class: several ? "result colored" : "result" }, head);
    if (!answer) return card.append(h("p", { class: "quiet" }, "asking …")), card;
    for (const note of answer.notes) card.append(h("p", { class: answer.unknown ? "note bad" : "note" }, note));
    if (answer.unknown) return card;
    const logit = answer.presence ?? NaN;
    const words = Math.abs(logit) < 0.2 ? "undecided whether it is there" : logit > 0 ? "speaks for it" : "speaks against it";
    if (!Number.isNaN(logit)) card.append(h("p", { class: "quiet" }, `The slide as a whole ${words} (logit ${logit.toFixed(2)}).`));
    const own = this.phrases.slice(0, index).reduce((sum, other) => sum + (this.answerOf(this.slide, other)?.regions?.length ?? 0), 0);
    const list = h("ol", { class: "regions" });
    answer.regions!.forEach((region, rank) => {
      const finding = findings[own + rank]!;
      list.append(h("li", {}, this.findings.button(finding, `${rank + 1}  ·  similarity ${region.score.toFixed(2)}`)));
    });
    const color = several ? PHRASE_COLORS[index]! : "#0a5c68";
    card.append(list, h("button", { type: "button", class: "secondary", onclick: () => this.keep(this.slide, answer.regions!, text, color) }, "Keep as regions"));
    return card;
  }

  private showScale(map: HeatMap): void {
    const several = this.phrases.length > 1;
    const canvas = h("canvas", { width: "256", height: "1", class: "ramp", "aria-hidden": "true" });
    const context = canvas.getContext("2d")!;
    for (let x = 0; x < 256; x++) {
      const [r, g, b] = several ? [0, 0, 0].map(() => 255 - Math.round(x * 0.8)) : scaleColor(x / 255);
      context.fillStyle = `rgb(${r} ${g} ${b})`;
      context.fillRect(x, 0, 1, 1);
    }
    const numbers = several ? ["lowest", "", "highest of each"] : [0, 0.5, 1].map((t) => (map.low + t * (map.high - map.low)).toFixed(2));
    fill(this.scale, h("span", { class: "quiet" }, "similarity to the phrase"), canvas, h("div", { class: "ticks" }, ...numbers.map((text) => h("span", {}, text))));
    this.showThreshold();
  }

  private showThreshold(): void {
    const layer = this.layers.get(this.panes[0]!)!;
    const map = this.phrases.map((text) => this.answerOf(this.slide, text)?.map).find(Boolean);
    const value = map && this.phrases.length === 1 ? (map.low + layer.threshold * (map.high - map.low)).toFixed(2) : `${Math.round(layer.threshold * 100)} %`;
    this.thresholdText.textContent = value;
  }
}
