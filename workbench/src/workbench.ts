// What is open, where, and which keys do what.
import { address, type ModelState, type SlideEntry, type State } from "./api";
import { fill, h, iconButton } from "./dom";
import { Cases, type CasesState } from "./cases";
import { Check } from "./check";
import { Findings, type Finding } from "./findings";
import { Grid } from "./grid";
import { lettersWork, showHelp } from "./help";
import { Link } from "./linked";
import { notice } from "./notice";
import { Pane } from "./pane";
import { Panel, type Job } from "./panel";
import { Reading, type ReadingState } from "./reading";
import { Regions, type RegionMessage } from "./regions";
import { Talk } from "./talk";
import { Where } from "./where";

export class Workbench {
  readonly element: HTMLElement;
  readonly left = new Pane("Slide");
  readonly right = new Pane("Slide beside it");
  active: Pane = this.left;
  private readonly slides: Map<string, SlideEntry>;
  private readonly grid: Grid;
  private readonly tabs = h("nav", { class: "tabs", "aria-label": "Open slides" });
  private readonly panes = h("div", { class: "panes" });
  private readonly desk: HTMLElement;
  private readonly open = new Map<Pane, string>();
  private readonly opened: string[] = [];
  private readonly link = new Link(() => (this.split ? [this.left, this.right] : [this.left]));
  private readonly gridButton: HTMLButtonElement;
  private readonly splitButton: HTMLButtonElement;
  private readonly linkBox = h("label", { class: "check link", hidden: true });
  private readonly modelNote = h("div", { class: "model-note", role: "status" });
  private readonly findings: Findings;
  private readonly readings = [new Reading(), new Reading(), new Reading()] as const;
  private readonly where: Where | null;
  private readonly talk: Talk | null;
  private readonly check: Check | null;
  private readonly cases: Cases | null;
  private readonly regions: Regions;
  private readonly panel: Panel;
  private readonly panelButton: HTMLButtonElement;
  private split = false;

  constructor(readonly state: State) {
    this.slides = new Map(state.slides.map((slide) => [slide.key, slide]));
    this.grid = new Grid(
      state.slides,
      (key) => this.show(key),
      (key) => this.showBeside(key),
    );
    this.gridButton = iconButton("grid", "All slides (g)", () => this.toGrid());
    this.splitButton = iconButton("split", "Side by side (s)", () => this.setSplit(!this.split), { "aria-pressed": "false" });
    const linked = h("input", { type: "checkbox", checked: true });
    linked.addEventListener("change", () => (this.link.enabled = linked.checked));
    this.linkBox.append(linked, "Move together");
    const both = [this.left, this.right];
    this.findings = new Findings(both, (finding) => this.goTo(finding));
    this.where = state.model || state.maps ? new Where(both, () => this.active, this.findings, this.readings[0], state.model !== null, (...kept) => void this.regions.keep(...kept)) : null;
    this.regions = new Regions(both, () => this.active, () => this.state.model?.note ?? this.state.note);
    const jobs: Job[] = [];
    if (this.where) jobs.push({ name: "where", title: "Where", element: this.where.element });
    const shown = () => (this.split ? both : [this.left]);
    this.talk = state.model?.talks ? new Talk(shown, this.findings, this.readings[1]) : null;
    if (this.talk) jobs.push({ name: "talk", title: "Ask", element: this.talk.element });
    this.check = state.model ? new Check(() => this.active, this.findings, this.readings[2]) : null;
    if (this.check) jobs.push({ name: "check", title: "Check", element: this.check.element });
    this.cases = state.cases ? new Cases(() => this.active, () => this.regions.chosenBox(), (finding) => this.goToCase(finding)) : null;
    if (this.cases) jobs.push({ name: "cases", title: "Cases", element: this.cases.element });
    jobs.push({ name: "regions", title: "Regions", element: this.regions.element });
    this.panel = new Panel(jobs, (name) => this.chosen(name));
    this.panel.element.append(this.modelNote);
    this.panelButton = iconButton("panel", "Panel", () => this.setPanel(Boolean(this.panel.element.hidden)), { "aria-pressed": "true" });
    if (!this.where) this.setPanel(false);
    for (const pane of both) {
      pane.onfocus = () => this.activate(pane);
      pane.onview = (moved) => this.link.moved(moved);
      pane.onopen = () => {
        if (pane === this.right) this.link.opened(pane);
        this.changed();
      };
    }
    this.panes.append(this.left.element);
    this.desk = h("div", { class: "desk", hidden: true }, this.panes, this.panel.element);
    this.element = h("div", { class: "workbench" }, this.topBar(), this.grid.element, this.desk);
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.fromAddress());
    this.listen();
    this.showModel(state.model);
    this.fromAddress(state.slides.length === 1 ? state.slides[0]!.key : undefined);
  }

  private topBar(): HTMLElement {
    return h(
      "header",
      { class: "top" },
      h("a", { class: "brand", href: "#", title: "All slides", onclick: (event: Event) => (event.preventDefault(), this.toGrid()) }, "PathFLIP"),
      this.gridButton,
      this.tabs,
      h(
        "div",
        { class: "tools", role: "toolbar", "aria-label": "View" },
        this.linkBox,
        this.splitButton,
        iconButton("minus", "Zoom out (−)", () => this.active.zoom(1 / 1.5)),
        iconButton("plus", "Zoom in (+)", () => this.active.zoom(1.5)),
        iconButton("rotate", "Rotate by 90° (r: by 15°)", () => this.active.rotate(90)),
        iconButton("home", "Whole slide (0)", () => this.active.home()),
        this.panelButton,
        iconButton("help", "Keys (?)", () => showHelp(this.state.version)),
      ),
    );
  }

  // --- Slides -------------------------------------------------------------------------------------------------------

  show(key: string): void {
    if (!this.slides.has(key)) return notice("That slide is not among those named at start.", "error");
    if (!this.opened.includes(key)) this.opened.push(key);
    this.grid.element.hidden = true;
    this.desk.hidden = false;
    if (this.open.get(this.active) !== key) {
      this.open.set(this.active, key);
      void this.active.open(key);
    }
    this.changed();
    this.active.focus();
  }

  showBeside(key: string): void {
    if (this.opened.length === 0) return this.show(key);
    this.setSplit(true);
    this.activate(this.right);
    this.show(key);
  }

  private close(key: string): void {
    this.opened.splice(this.opened.indexOf(key), 1);
    for (const [pane, shown] of this.open) {
      if (shown !== key) continue;
      const next = this.opened.at(-1);
      if (next) {
        this.open.set(pane, next);
        void pane.open(next);
      } else {
        this.open.delete(pane);
        pane.close();
      }
    }
    this.changed();
    if (this.opened.length === 0) this.toGrid();
  }

  private toGrid(): void {
    this.grid.element.hidden = false;
    this.desk.hidden = true;
    this.changed();
    this.grid.element.querySelector("input")?.focus();
  }

  private setPanel(shown: boolean): void {
    this.panel.element.hidden = !shown;
    this.panelButton.setAttribute("aria-pressed", String(shown));
  }

  /** Show a finding: on the slide it lies on. */
  private goTo(finding: Finding): void {
    const pane = [...this.open].find(([, key]) => key === finding.slide)?.[0];
    if (!pane) {
      this.active.onceOpen(() => this.active.show(finding));
      return this.show(finding.slide);
    }
    this.activate(pane);
    pane.show(finding);
  }

  /** Another job: its places are shown, those of the others are not. */
  private chosen(job: string): void {
    this.talk?.setVisible(job === "talk");
    this.check?.setVisible(job === "check");
    this.where?.setVisible(job === "where" || job === "regions");
  }

  private draw(tool: "box" | "polygon" | "point"): void {
    if (this.desk.hidden) return;
    this.setPanel(true);
    this.panel.choose("regions");
    this.regions.drawing.use(tool, this.active);
  }

  /** A case that was found: its place is outlined. */
  private goToCase(finding: Finding): void {
    this.findings.set([finding]);
    this.goTo(finding);
  }

  private showModel(model: ModelState | null): void {
    if (!model) return;
    const text = { loading: "The model is being loaded …", failed: model.message ?? "", ready: model.note ?? "" }[model.state];
    this.modelNote.classList.toggle("bad", model.state === "failed");
    fill(this.modelNote, text);
  }

  private setSplit(split: boolean): void {
    if (this.split === split || this.opened.length === 0) return;
    this.split = split;
    this.linkBox.hidden = !split;
    if (split) {
      this.panes.append(this.right.element);
      const key = this.opened.find((other) => other !== this.open.get(this.left)) ?? this.open.get(this.left)!;
      this.open.set(this.right, key);
      void this.right.open(key);
    } else {
      this.right.element.remove();
      this.right.close();
      this.open.delete(this.right);
      this.activate(this.left);
    }
    this.changed();
  }

  private activate(pane: Pane): void {
    if (this.active === pane) return;
    this.active = pane;
    this.changed();
  }

  private fromAddress(otherwise?: string): void {
    const key = new URLSearchParams(location.hash.slice(1)).get("slide") ?? otherwise;
    if (key && this.open.get(this.active) !== key) this.show(key);
  }

  /** Bring tabs, buttons and address in line with what is shown. */
  private changed(): void {
    const inGrid = !this.grid.element.hidden;
    void this.where?.slideChanged();
    this.talk?.slideChanged();
    this.check?.slideChanged();
    if (this.panes.isConnected) void this.regions.slideChanged();
    this.gridButton.setAttribute("aria-pressed", String(inGrid));
    this.splitButton.setAttribute("aria-pressed", String(this.split));
    this.left.element.classList.toggle("active", this.split && this.active === this.left);
    this.right.element.classList.toggle("active", this.split && this.active === this.right);
    fill(this.tabs, ...this.opened.map((key) => this.tab(key, !inGrid && this.open.get(this.active) === key)));
    const shown = inGrid ? undefined : this.open.get(this.active);
    const name = shown && this.slides.get(shown)?.id;
    document.title = name ? `${name} · PathFLIP` : "PathFLIP workbench";
    const hash = shown ? `#slide=${shown}` : "#";
    if (location.hash !== hash && !(hash === "#" && !location.hash)) history.replaceState(null, "", hash);
  }

  private tab(key: string, selected: boolean): HTMLElement {
    const name = this.slides.get(key)!.id;
    return h(
      "div",
      { class: selected ? "tab selected" : "tab" },
      h(
        "button",
        {
          type: "button",
          "aria-current": selected ? "page" : null,
          title: name,
          onclick: () => this.show(key),
        },
        name,
      ),
      iconButton("close", `Close ${name}`, () => this.close(key)),
    );
  }

  // --- Keys and messages ---------------------------------------------------------------------------------------------

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    const typing = target.matches("input, textarea, select, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !lettersWork() || document.querySelector("dialog[open]")) return;
    const actions: Record<string, () => void> = {
      g: () => (this.grid.element.hidden ? this.toGrid() : this.opened.length && this.show(this.opened.at(-1)!)),
      s: () => this.setSplit(!this.split),
      n: () => this.step(1),
      p: () => this.step(-1),
      b: () => this.draw("box"),
      y: () => this.draw("polygon"),
      t: () => this.draw("point"),
      Delete: () => void this.regions.deleteSelected(),
      "/": () => this.ask(),
      "?": () => showHelp(this.state.version),
    };
    const action = actions[event.key];
    if (!action) return;
    action();
    event.preventDefault();
  }

  private step(by: number): void {
    if (this.panel.current === "regions") this.regions.step(by);
    else this.findings.step(by);
  }

  private ask(): void {
    if (!this.where || this.desk.hidden) return;
    this.setPanel(true);
    this.panel.choose("where");
    this.where.focus();
  }

  private listen(): void {
    const events = new EventSource(address("/api/events"));
    const on = <T>(kind: string, then: (data: T) => void) =>
      events.addEventListener(kind, (event) => then(JSON.parse((event as MessageEvent<string>).data) as T));
    let greeted = false;
    on("hello", () => {
      if (greeted) this.regions.reload();
      greeted = true;
    });
    on("reload", () => this.regions.reload());
    on<RegionMessage>("regions", (message) => this.regions.message(message));
    on<ModelState>("model", (model) => this.showModel(model));
    on<CasesState>("cases", (state) => this.cases?.message(state));
    on<ReadingState & { slide: string }>("reading", (state) => this.readings.forEach((reading) => reading.show(state.slide, state)));
    on<{ slide: string; message: string }>("unreadable", ({ slide, message }) => {
      if ([...this.open.values()].includes(slide)) notice(`A place on this slide cannot be read and is hatched: ${message}`, "error");
    });
  }
}
