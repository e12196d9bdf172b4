// The side panel: one tab a job. On a narrow screen it is a sheet at the bottom.
import { h } from "./dom";

export interface Job {
  name: string;
  title: string;
  element: HTMLElement;
  /** Called when the tab is chosen. */
  chosen?: () => void;
}

export class Panel {
  readonly element: HTMLElement;
  private readonly tabs = h("div", { class: "jobs", role: "tablist", "aria-label": "What to do" });
  private readonly body = h("div", { class: "job-body" });
  private readonly buttons = new Map<string, HTMLButtonElement>();
  current = "";

  constructor(private readonly jobs: Job[], readonly onchange: (name: string) => void) {
    for (const job of jobs) {
      const id = `job-${job.name}`;
      const button = h("button", { type: "button", role: "tab", id: `${id}-tab`, "aria-controls": id, onclick: () => this.choose(job.name) }, job.title);
      Object.entries({ id, role: "tabpanel", "aria-labelledby": `${id}-tab` }).forEach(([key, value]) => job.element.setAttribute(key, value));
      this.buttons.set(job.name, button);
      this.tabs.append(button);
      this.body.append(job.element);
    }
    this.tabs.addEventListener("keydown", (event) => this.key(event));
    this.element = h("aside", { class: "panel", "aria-label": "Questions and regions" }, this.tabs, this.body);
    if (jobs[0]) this.choose(jobs[0].name);
  }

  has(name: string): boolean {
    return this.buttons.has(name);
  }

  choose(name: string): void {
    this.current = name;
    for (const job of this.jobs) {
      const chosen = job.name === name;
      job.element.hidden = !chosen;
      const button = this.buttons.get(job.name)!;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      if (chosen) job.chosen?.();
    }
    this.onchange(name);
  }

  private key(event: KeyboardEvent): void {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = this.jobs.findIndex((job) => job.name === this.current);
    const next = this.jobs[(at + step + this.jobs.length) % this.jobs.length]!;
    this.choose(next.name);
    this.buttons.get(next.name)!.focus();
    event.preventDefault();
  }
}
