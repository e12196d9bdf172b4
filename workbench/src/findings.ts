// Places that a question led to: outlined on the slide, listed beside it, walked through with n and p.
import { h } from "./dom";
import type { Pane, Rect } from "./pane";
import { boxRing, Shapes } from "./shapes";

export interface Finding extends Rect {
  label: string;
  color: string;
  score: number;
  /** Key of the slide it lies on. */
  slide: string;
}

export class Findings {
  private findings: Finding[] = [];
  private chosen = -1;
  private readonly layers: Map<Pane, Shapes>;
  private readonly items = new WeakMap<Finding, HTMLElement[]>();

  constructor(
    panes: Pane[],
    private readonly goTo: (finding: Finding) => void,
  ) {
    this.layers = new Map(panes.map((pane) => [pane, new Shapes(pane)]));
  }

  set(findings: Finding[]): void {
    this.findings = findings;
    this.chosen = -1;
    this.draw();
  }

  chooseFinding(finding: Finding): void {
    const index = this.findings.indexOf(finding);
    if (index >= 0) this.choose(index);
    else this.goTo(finding); // of an earlier answer: shown, no longer outlined
  }

  /** Next (1) or previous (-1) finding. */
  step(by: number): void {
    if (!this.findings.length) return;
    this.choose((this.chosen + by + this.findings.length) % this.findings.length);
  }

  choose(index: number): void {
    const finding = this.findings[index];
    if (!finding) return;
    this.chosen = index;
    this.goTo(finding);
    this.draw();
    for (const item of this.items.get(finding) ?? []) item.scrollIntoView({ block: "nearest" });
  }

  /** A button that jumps to a finding, and lights it while pointed at or focused. */
  button(finding: Finding, text: string): HTMLElement {
    const button = h("button", { type: "button", class: "finding", onclick: () => this.choose(this.findings.indexOf(finding)) }, text);
    button.style.setProperty("--color", finding.color);
    this.tie(button, finding);
    return button;
  }

  /** Let an element stand for a finding: each lights the other. */
  tie(element: HTMLElement, finding: Finding): void {
    this.items.set(finding, [...(this.items.get(finding) ?? []), element]);
    for (const event of ["pointerenter", "focusin"]) element.addEventListener(event, () => this.light(finding, true));
    for (const event of ["pointerleave", "focusout"]) element.addEventListener(event, () => this.light(finding, false));
  }

  private light(finding: Finding, lit: boolean): void {
    for (const element of this.items.get(finding) ?? []) element.classList.toggle("lit", lit);
    for (const layer of this.layers.values()) layer.element(idOf(this.findings.indexOf(finding)))?.classList.toggle("lit", lit);
  }

  draw(): void {
    for (const [pane, layer] of this.layers) {
      layer.set(
        this.findings.flatMap((finding, index) =>
          finding.slide !== pane.slide?.key
            ? []
            : [{
                id: idOf(index),
                rings: [boxRing(finding)],
                color: finding.color,
                label: finding.label,
                strong: index === this.chosen,
                onclick: () => this.choose(index),
              }],
        ),
      );
      this.findings.forEach((finding, index) => {
        const element = layer.element(idOf(index));
        if (!element) return;
        element.addEventListener("pointerenter", () => this.light(finding, true));
        element.addEventListener("pointerleave", () => this.light(finding, false));
      });
    }
    this.findings.forEach((finding, index) => {
      for (const element of this.items.get(finding) ?? []) element.classList.toggle("current", index === this.chosen);
    });
  }
}

const idOf = (index: number): string => `finding-${index}`;
