// Ask what: questions and answers about the slides in view; every sentence and its places light each other.
import { stream } from "./api";
import { fill, h } from "./dom";
import type { Finding, Findings } from "./findings";
import { failed } from "./notice";
import type { Pane } from "./pane";
import type { Reading } from "./reading";

interface Place {
  x: number;
  y: number;
  width: number;
  height: number;
  score: number;
  text: string;
  slide: string;
}

interface Answer {
  text: string;
  sentences: string[];
  abstained: boolean;
  confidence: number | null;
  evidence: Place[];
}

type Turn = ["user" | "assistant", string];
const COLOR = "#7a1fa2";

export class Talk {
  readonly element: HTMLElement;
  private readonly log = h("div", { class: "talk-log", role: "log", "aria-label": "Conversation" });
  private readonly input = h("textarea", { class: "field", rows: "2", "aria-label": "Question", placeholder: "for example: What kind of tumour is it?", maxlength: "2000" });
  private readonly buttons: HTMLButtonElement[];
  private turns: Turn[] = [];
  private findings: Finding[] = [];
  private slides = "";
  private visible = false;

  constructor(
    private readonly shown: () => Pane[],
    private readonly marks: Findings,
    private readonly reading: Reading,
  ) {
    const send = h("button", { class: "primary" }, "Ask");
    const describe = h("button", { type: "button", class: "secondary", onclick: () => void this.ask("") }, "Describe the slide");
    this.buttons = [send, describe];
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      this.submit();
    });
    const form = h("form", { class: "stacked", onsubmit: (event: Event) => (event.preventDefault(), this.submit()) }, this.input, h("div", { class: "row" }, send, describe));
    this.element = h("section", {}, h("h2", {}, "What is it?"), this.reading.element, this.log, form);
  }

  setVisible(visible: boolean): void {
    this.visible = visible;
    if (visible) this.marks.set(this.findings);
  }

  /** A conversation is about the slides in view; with others it begins anew. */
  slideChanged(): void {
    const slides = this.keys().join();
    if (slides === this.slides) return;
    this.slides = slides;
    this.turns = [];
    this.findings = [];
    fill(this.log);
    if (this.visible) this.marks.set([]);
  }

  private keys(): string[] {
    return [...new Set(this.shown().flatMap((pane) => (pane.slide ? [pane.slide.key] : [])))];
  }

  private submit(): void {
    const question = this.input.value.trim();
    if (!question) return;
    this.input.value = "";
    void this.ask(question);
  }

  private async ask(question: string): Promise<void> {
    const keys = this.keys();
    if (!keys.length) return;
    this.slideChanged();
    const words = h("span", {}, "");
    const said = h("div", { class: "said theirs" }, words, h("span", { class: "quiet" }, "looking …"));
    this.log.append(h("div", { class: "said ours" }, question || "Describe the slide."), said);
    for (const button of this.buttons) button.disabled = true;
    const slides = this.slides;
    try {
      await stream("/api/talk", { slides: keys, question, history: this.turns }, (kind, data) => {
        if (slides !== this.slides) return;
        if (kind === "words") words.append((data as { text: string }).text);
        if (kind === "answer") this.answer(said, question, data as Answer);
        if (kind === "failed") this.fail(said, question, data as { error: string; reason?: string }, keys);
      });
    } catch (error) {
      said.remove();
      failed(error);
    } finally {
      for (const button of this.buttons) button.disabled = false;
    }
  }

  private fail(said: HTMLElement, question: string, { error, reason }: { error: string; reason?: string }, keys: string[]): void {
    if (reason !== "not read") return fill(said, h("span", { class: "bad" }, error));
    said.previousElementSibling?.remove();
    said.remove();
    void this.reading.beginAll(keys, () => void this.ask(question));
  }

  private answer(said: HTMLElement, question: string, answer: Answer): void {
    this.turns = [...this.turns, ["user", question || "Describe the slide."], ["assistant", answer.text]].slice(-12) as Turn[];
    const findings = answer.evidence.map<Finding>((place, rank) => ({ ...place, label: String(rank + 1), color: COLOR }));
    this.findings = findings;
    if (this.visible) this.marks.set(findings);
    const sentences = answer.sentences.length ? answer.sentences : [answer.text || "The assistant wrote nothing."];
    const own = (sentence: string) => findings.filter((_, rank) => answer.evidence[rank]!.text === sentence);
    // Evidence of a caption names its sentence; that of a short answer stands for all of it.
    const bySentence = sentences.some((sentence) => own(sentence).length);
    fill(said, ...sentences.map((sentence) => this.sentence(sentence, bySentence ? own(sentence) : findings)));
    const sure = answer.confidence === null ? "" : ` Confidence ${Math.round(answer.confidence * 100)} %.`;
    said.append(h("p", { class: "quiet" }, answer.abstained ? `No answer is given.${sure}` : `${findings.length} places.${sure}`));
    said.scrollIntoView({ block: "nearest" });
  }

  private sentence(text: string, places: Finding[]): HTMLElement {
    const span = h("span", { class: "sentence" }, text, " ");
    for (const finding of places) {
      this.marks.tie(span, finding);
      const button = h("button", { type: "button", class: "place", "aria-label": `Place ${finding.label}`, onclick: () => this.marks.chooseFinding(finding) }, finding.label);
      this.marks.tie(button, finding);
      span.append(button, " ");
    }
    return span;
  }
}
