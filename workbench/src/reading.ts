// Whether the model has read a slide, and the bar while it does. The slide can be looked at meanwhile.
import { get, send, slidePath } from "./api";
import { fill, h } from "./dom";

export interface ReadingState {
  state: "ready" | "absent" | "running" | "failed";
  done?: number;
  total?: number;
  message?: string;
}

export class Reading {
  readonly element = h("div", { class: "reading", role: "status" });
  private key = "";
  private waiting: (() => void)[] = [];

  /** Show the state of a slide. */
  async of(key: string): Promise<void> {
    if (this.key !== key) this.waiting = [];
    this.key = key;
    try {
      this.show(key, await get<ReadingState>(`${slidePath(key)}/reading`));
    } catch (error) {
      this.show(key, { state: "failed", message: (error as Error).message });
    }
  }

  /** Begin, and call back when done. */
  async begin(key: string, then: () => void): Promise<void> {
    this.key = key;
    this.waiting = [then];
    try {
      this.show(key, await send<ReadingState>("POST", `${slidePath(key)}/reading`));
    } catch (error) {
      this.show(key, { state: "failed", message: (error as Error).message });
    }
  }

  /** Begin with several slides, one after the other. */
  async beginAll(keys: string[], then: () => void): Promise<void> {
    const [key, ...rest] = keys;
    if (key === undefined) return then();
    await this.begin(key, () => void this.beginAll(rest, then));
  }

  /** A message of the server. */
  show(key: string, now: ReadingState): void {
    if (key !== this.key) return;
    if (now.state === "ready") {
      fill(this.element);
      for (const then of this.waiting.splice(0)) then();
    } else if (now.state === "running") {
      const total = now.total ?? 0;
      const bar = h("progress", { "aria-label": "The model reads the slide", ...(total ? { value: now.done ?? 0, max: total } : {}) });
      fill(this.element, h("p", {}, total ? `The model reads this slide: ${now.done} of ${total} tiles.` : "The model reads this slide: looking for tissue."), bar);
    } else if (now.state === "failed") {
      fill(this.element, h("p", { class: "bad" }, now.message ?? "The slide could not be read."));
    } else {
      fill(this.element, h("p", {}, "The model has not read this slide yet; the first question begins it."));
    }
  }
}
