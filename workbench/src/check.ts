// Check: a report sentence by sentence against the slide, and what it leaves out.
import { send, ServerError, slidePath } from "./api";
import { fill, h } from "./dom";
import type { Finding, Findings } from "./findings";
import { failed, notice } from "./notice";
import type { Pane } from "./pane";
import type { Reading } from "./reading";

interface Place {
  x: number;
  y: number;
  width: number;
  height: number;
  score: number;
}

interface Sentence {
  sentence: string;
  verdict: string;
  probability: number | null;
  negated: boolean;
  reason: string;
  regions: Place[];
}

interface Verification {
  calibrated: boolean;
  notes: string[];
  sentences: Sentence[];
  omissions: { finding: string; probability: number; regions: Place[] }[];
  caution: string;
}

const COLORS: Record<string, string> = { supported: "#12633f", contradicted: "#a3210f", uncertain: "#7a5600", "not visible": "#4d6066" };
const OMITTED = "#a3210f";
const MOST_BYTES = 200_000;

export class Check {
  readonly element: HTMLElement;
  private readonly input = h("textarea", { class: "field", rows: "6", "aria-label": "Report", placeholder: "Paste a report here, or drop a text file." });
  private readonly button = h("button", { class: "primary" }, "Check");
  private readonly results = h("div", { class: "results", "aria-live": "polite" });
  private findings: Finding[] = [];
  private checked = "";
  private visible = false;

  constructor(
    private readonly active: () => Pane,
    private readonly marks: Findings,
    private readonly reading: Reading,
  ) {
    const form = h("form", { class: "stacked", onsubmit: (event: Event) => (event.preventDefault(), void this.check()) }, this.input, h("div", { class: "row" }, this.button));
    for (const event of ["dragover", "drop"]) form.addEventListener(event, (dropped) => dropped.preventDefault());
    form.addEventListener("drop", (event) => void this.drop((event as DragEvent).dataTransfer));
    this.element = h("section", {}, h("h2", {}, "Is it so?"), this.reading.element, form, this.results);
  }

  setVisible(visible: boolean): void {
    this.visible = visible;
    if (visible) this.marks.set(this.findings);
  }

  slideChanged(): void {
    const key = this.active().slide?.key ?? "";
    if (key === this.checked) return;
    this.checked = key;
    this.findings = [];
    fill(this.results);
    if (this.visible) this.marks.set([]);
  }

  private async drop(data: DataTransfer | null): Promise<void> {
    const file = data?.files[0];
    if (!file) this.input.value = data?.getData("text/plain") ?? "";
    else if (file.size > MOST_BYTES) return notice(`${file.name} has ${Math.round(file.size / 1000)} kB; a report has at most ${MOST_BYTES / 1000}.`, "error");
    else this.input.value = await file.text();
    await this.check();
  }

  private async check(): Promise<void> {
    const [key, text] = [this.active().slide?.key, this.input.value.trim()];
    if (!key || !text) return;
    this.slideChanged();
    this.button.disabled = true;
    try {
      const verification = await send<Verification>("POST", `${slidePath(key)}/check`, { text });
      if (key === this.active().slide?.key) this.show(key, verification);
    } catch (error) {
      if (error instanceof ServerError && error.status === 409) void this.reading.begin(key, () => void this.check());
      else failed(error);
    } finally {
      this.button.disabled = false;
    }
  }

  private show(slide: string, verification: Verification): void {
    this.findings = [];
    const places = (regions: Place[], color: string, prefix: string) => {
      const made = regions.map<Finding>((region, rank) => ({ ...region, slide, color, label: `${prefix}.${rank + 1}` }));
      this.findings.push(...made);
      return made;
    };
    const cards = verification.sentences.map((one, index) => {
      const color = COLORS[one.verdict] ?? "#4d6066";
      return this.card(one.sentence, one.verdict, color, one.probability, one.negated && one.regions.length ? `${one.reason ? `${one.reason}. ` : ""}Where the thing denied would be:` : one.reason, places(one.regions, color, String(index + 1)));
    });
    const missing = verification.omissions.map((one, index) =>
      this.card(one.finding, "not in the report", OMITTED, one.probability, "The slide seems to show it, and no sentence speaks of it.", places(one.regions, OMITTED, `+${index + 1}`)),
    );
    fill(
      this.results,
      ...verification.notes.map((note) => h("p", { class: "note" }, note)),
      ...cards,
      missing.length ? h("h3", {}, "What the report may leave out") : null,
      ...missing,
      h("p", { class: "quiet" }, verification.caution),
    );
    if (this.visible) this.marks.set(this.findings);
  }

  private card(text: string, verdict: string, color: string, probability: number | null, reason: string, findings: Finding[]): HTMLElement {
    const chance = probability === null ? "" : ` · ${Math.min(Math.max(probability, 0.01), 0.99).toFixed(2)}`;
    const card = h("article", { class: "verdict" }, h("p", {}, text), h("p", { class: "verdict-word" }, verdict + chance), reason ? h("p", { class: "quiet" }, reason) : null);
    card.style.setProperty("--color", color);
    const row = h("div", { class: "row" });
    for (const finding of findings) {
      const button = h("button", { type: "button", class: "place", "aria-label": `Place ${finding.label}`, onclick: () => this.marks.chooseFinding(finding) }, finding.label);
      this.marks.tie(card, finding);
      this.marks.tie(button, finding);
      row.append(button);
    }
    if (findings.length) card.append(row);
    return card;
  }
}
