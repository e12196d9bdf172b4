// Regions that people draw: drawn, named, coloured, edited; kept by the server at once; shown in every open page.
import { address, get, send, ServerError, slidePath } from "./api";
import { fill, h, iconButton } from "./dom";
import { Drawing, type Tool } from "./drawing";
import { failed, notice } from "./notice";
import type { Pane, Rect } from "./pane";
import { savePNG } from "./png";
import { micronText } from "./scale";
import { Shapes, type Ring, type Shape } from "./shapes";

export type Geometry =
  | { type: "Polygon"; coordinates: Ring[] }
  | { type: "MultiPolygon"; coordinates: Ring[][] }
  | { type: "Point"; coordinates: [number, number] }
  | { type: "MultiPoint"; coordinates: [number, number][] };

export interface Region {
  id: string;
  geometry: Geometry;
  name: string;
  classification: string;
  color: string;
  version: number;
}

export interface RegionMessage {
  slide: string;
  by: string;
  kept?: Region[];
  deleted?: string[];
  reload?: boolean;
}

type Fields = Omit<Region, "id" | "version">;
const MOST_HANDLES = 300;

export class Regions {
  readonly element: HTMLElement;
  readonly drawing: Drawing;
  private readonly bySlide = new Map<string, Map<string, Region>>();
  private readonly layers: Map<Pane, Shapes>;
  private readonly list = h("ul", { class: "regions" });
  private readonly form = h("form", { class: "region-form", hidden: true, onsubmit: (event: Event) => event.preventDefault() });
  private readonly tools = new Map<Tool, HTMLButtonElement>();
  private readonly classes = h("datalist", { id: "classes" });
  private readonly file = h("input", { type: "file", accept: ".geojson,.json", hidden: true, tabindex: "-1", "aria-hidden": "true" });
  private color = "#b0003a";
  private classification = "";
  private selected = "";
  private shown = "";
  private readonly loaded = new Set<string>();

  constructor(
    private readonly panes: Pane[],
    private readonly active: () => Pane,
    private readonly note: () => string,
  ) {
    this.layers = new Map(panes.map((pane) => [pane, new Shapes(pane)]));
    this.drawing = new Drawing(panes, {
      drawn: (pane, geometry) => void this.draw(pane.slide!.key, geometry),
      moved: (pane, geometry) => void this.moved(pane.slide!.key, geometry),
      toolChanged: (tool) => this.tools.forEach((button, name) => button.setAttribute("aria-pressed", String(name === tool))),
    });
    const tool = (name: Tool, label: string) => {
      const button = iconButton(name, label, () => this.drawing.use(this.drawing.tool === name ? "pan" : name, this.active()), { "aria-pressed": "false" });
      this.tools.set(name, button);
      return button;
    };
    this.file.addEventListener("change", () => void this.importFile());
    this.element = h(
      "section",
      {},
      h("h2", {}, "Regions"),
      h("div", { class: "draw-tools", role: "toolbar", "aria-label": "Draw" }, tool("box", "Box (b)"), tool("polygon", "Polygon (y): click corners, or drag along the outline"), tool("point", "Point (t)")),
      this.form,
      this.list,
      this.classes,
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "secondary", onclick: () => this.exportFile() }, "Export GeoJSON"),
        h("button", { type: "button", class: "secondary", onclick: () => this.file.click() }, "Import"),
        h("button", { type: "button", class: "secondary", onclick: () => this.picture() }, "Save view as PNG"),
        this.file,
      ),
    );
  }

  // --- What is kept ---------------------------------------------------------------------------------------------------

  private of(key: string): Map<string, Region> {
    const known = this.bySlide.get(key) ?? new Map<string, Region>();
    if (key) this.bySlide.set(key, known);
    return known;
  }

  async slideChanged(): Promise<void> {
    const keys = this.panes.map((pane) => pane.slide?.key ?? "");
    const shown = [...keys, this.panes.indexOf(this.active())].join();
    if (shown === this.shown) return;
    this.shown = shown;
    this.drawing.use("pan", this.active());
    for (const key of keys) if (key && !this.loaded.has(key)) await this.load(key);
    this.render();
  }

  private async load(key: string): Promise<void> {
    try {
      const { regions } = await get<{ regions: Region[] }>(`${slidePath(key)}/regions`);
      this.bySlide.set(key, new Map(regions.map((region) => [region.id, region])));
      this.loaded.add(key);
    } catch (error) {
      failed(error);
    }
    this.render();
  }

  /** Messages may have been missed. */
  reload(): void {
    for (const key of this.loaded) void this.load(key);
  }

  /** A change made in another page (or in this one). */
  message(message: RegionMessage): void {
    if (message.reload) {
      if (message.slide === "") this.reload();
      else if (this.loaded.has(message.slide)) void this.load(message.slide);
      return;
    }
    if (!this.loaded.has(message.slide)) return;
    const known = this.of(message.slide);
    for (const region of message.kept ?? []) if ((known.get(region.id)?.version ?? 0) < region.version) known.set(region.id, region);
    for (const id of message.deleted ?? []) known.delete(id);
    this.render();
  }

  /** Keep boxes somebody found as regions. */
  async keep(key: string, boxes: Rect[], name: string, color: string): Promise<void> {
    for (const [index, box] of boxes.entries()) {
      const [x, y, x1, y1] = [box.x, box.y, box.x + box.width, box.y + box.height];
      const geometry: Geometry = { type: "Polygon", coordinates: [[[x, y], [x1, y], [x1, y1], [x, y1], [x, y]]] };
      if (!(await this.add(key, { geometry, name: `${name} ${index + 1}`.slice(0, 500), classification: name.slice(0, 500), color }))) return;
    }
    notice(`${boxes.length} regions kept.`);
    this.render();
  }

  private async draw(key: string, geometry: Geometry): Promise<void> {
    const region = await this.add(key, { geometry, name: "", classification: this.classification, color: this.color });
    if (!region) return;
    this.select(region.id);
    this.form.querySelector("input")?.focus();
  }

  private async add(key: string, fields: Fields): Promise<Region | null> {
    try {
      const region = await send<Region>("POST", `${slidePath(key)}/regions`, fields);
      this.of(key).set(region.id, region);
      return region;
    } catch (error) {
      failed(error);
      return null;
    }
  }

  private async change(key: string, region: Region, fields: Partial<Fields>): Promise<void> {
    const { id, ...now } = { ...region, ...fields };
    try {
      const changed = await send<Region>("PUT", `${slidePath(key)}/regions/${id}`, now);
      this.of(key).set(id, changed);
    } catch (error) {
      failed(error);
      if (error instanceof ServerError && error.status === 409) await this.load(key);
    }
    this.render();
  }

  private async moved(key: string, geometry: Geometry): Promise<void> {
    const region = this.of(key).get(this.selected);
    if (region) await this.change(key, region, { geometry });
  }

  async deleteSelected(): Promise<void> {
    const key = this.active().slide?.key ?? "";
    const region = this.of(key).get(this.selected);
    if (!region) return;
    try {
      await send("DELETE", `${slidePath(key)}/regions/${region.id}?version=${region.version}`);
      this.of(key).delete(region.id);
      this.selected = "";
    } catch (error) {
      failed(error);
      if (error instanceof ServerError && error.status === 409) await this.load(key);
    }
    this.render();
    this.active().focus();
  }

  // --- What is shown --------------------------------------------------------------------------------------------------

  select(id: string, show = false): void {
    this.selected = id;
    const pane = this.active();
    const region = this.of(pane.slide?.key ?? "").get(id);
    if (region && show) pane.show(bounds(region.geometry));
    this.render();
  }

  /** The rectangle around the chosen region of the active slide. */
  chosenBox(): Rect | null {
    const region = this.of(this.active().slide?.key ?? "").get(this.selected);
    return region ? bounds(region.geometry) : null;
  }

  step(by: number): void {
    const ids = [...this.of(this.active().slide?.key ?? "").keys()];
    if (!ids.length) return;
    this.select(ids[(ids.indexOf(this.selected) + by + ids.length) % ids.length]!, true);
  }

  render(): void {
    for (const [pane, layer] of this.layers) {
      const regions = pane.slide ? [...this.of(pane.slide.key).values()] : [];
      layer.set(regions.map((region) => this.shape(region)));
    }
    const pane = this.active();
    const regions = [...this.of(pane.slide?.key ?? "").values()];
    const current = regions.find((region) => region.id === this.selected);
    this.drawing.edit(pane, current && countPoints(current.geometry) <= MOST_HANDLES ? current.geometry : null);
    const active = document.activeElement;
    if (!(active instanceof HTMLElement && this.form.contains(active) && current?.id === this.form.dataset.region)) this.showForm(current);
    fill(this.classes, ...[...new Set(regions.map((region) => region.classification))].filter(Boolean).map((name) => h("option", { value: name })));
    const items = regions.map((region, index) => {
      const button = h("button", { type: "button", class: region.id === this.selected ? "finding current" : "finding", onclick: () => this.select(region.id, true) }, title(region, index), h("span", { class: "quiet" }, ` ${this.measure(region, pane)}`));
      button.style.setProperty("--color", region.color);
      return h("li", {}, button);
    });
    fill(this.list, ...(items.length ? items : [h("li", { class: "quiet" }, "None yet. Choose a tool and draw; everything is kept at once.")]));
  }

  private shape(region: Region): Shape {
    const { geometry } = region;
    const point = geometry.type.endsWith("Point");
    return { id: region.id, rings: ringsOf(geometry), point, color: region.color, label: region.name || region.classification, strong: region.id === this.selected, onclick: () => this.select(region.id) };
  }

  private measure(region: Region, pane: Pane): string {
    if (region.geometry.type.endsWith("Point") || !pane.slide?.mpp) return region.classification;
    const area = areaOf(region.geometry) * pane.slide.mpp ** 2;
    const text = area >= 1e5 ? `${(area / 1e6).toFixed(2)} mm²` : `${micronText(area)}²`;
    return [region.classification, text].filter(Boolean).join(" · ");
  }

  private showForm(region: Region | undefined): void {
    this.form.hidden = !region;
    this.form.dataset.region = region?.id ?? "";
    if (!region) return;
    const key = this.active().slide!.key;
    const latest = () => this.of(key).get(region.id) ?? region;
    const name = h("input", { class: "field", value: region.name, maxlength: "500", id: "region-name" });
    const kind = h("input", { class: "field", value: region.classification, maxlength: "500", id: "region-class", list: "classes" });
    const color = h("input", { type: "color", value: region.color, id: "region-color" });
    name.addEventListener("change", () => void this.change(key, latest(), { name: name.value }));
    kind.addEventListener("change", () => {
      this.classification = kind.value;
      void this.change(key, latest(), { classification: kind.value });
    });
    color.addEventListener("change", () => {
      this.color = color.value;
      void this.change(key, latest(), { color: color.value });
    });
    fill(
      this.form,
      h("label", { for: "region-name" }, "Name"),
      name,
      h("label", { for: "region-class" }, "Class"),
      kind,
      h("label", { for: "region-color" }, "Colour"),
      h("div", { class: "row" }, color, h("button", { type: "button", class: "secondary", onclick: () => void this.deleteSelected() }, "Delete")),
    );
  }

  // --- Files -----------------------------------------------------------------------------------------------------------

  private exportFile(): void {
    const slide = this.active().slide;
    if (slide) h("a", { href: address(`${slidePath(slide.key)}/regions.geojson`), download: `${slide.id}.geojson` }).click();
  }

  private async importFile(): Promise<void> {
    const [file, slide] = [this.file.files?.[0], this.active().slide];
    this.file.value = "";
    if (!file || !slide) return;
    try {
      const { imported, left_out } = await send<{ imported: number; left_out: number }>("POST", `${slidePath(slide.key)}/regions.geojson`, await file.text());
      notice(`${imported} regions imported${left_out ? `; ${left_out} lines or empty objects left out` : ""}.`);
      await this.load(slide.key);
    } catch (error) {
      failed(error);
    }
  }

  private picture(): void {
    savePNG(this.active(), this.note()).catch(failed);
  }
}

const title = (region: Region, index: number): string => region.name || `Region ${index + 1}`;

function ringsOf(geometry: Geometry): Ring[] {
  switch (geometry.type) {
    case "Polygon": return geometry.coordinates;
    case "MultiPolygon": return geometry.coordinates.flat();
    case "Point": return [[geometry.coordinates]];
    case "MultiPoint": return [geometry.coordinates];
  }
}

function bounds(geometry: Geometry): Rect {
  const points = ringsOf(geometry).flat();
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [x, y] = [Math.min(...xs), Math.min(...ys)];
  return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
}

const countPoints = (geometry: Geometry): number => ringsOf(geometry).reduce((sum, ring) => sum + ring.length, 0);

/** Holes run the other way or are subtracted: the first ring of each polygon counts, the others are taken off. */
function areaOf(geometry: Geometry): number {
  const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.type === "MultiPolygon" ? geometry.coordinates : [];
  const ringArea = (ring: Ring) => Math.abs(ring.reduce((sum, [x, y], i) => {
    const [x1, y1] = ring[(i + 1) % ring.length]!;
    return sum + x * y1 - x1 * y;
  }, 0)) / 2;
  return polygons.reduce((sum, [outer, ...holes]) => sum + ringArea(outer!) - holes.reduce((taken, hole) => taken + ringArea(hole), 0), 0);
}
