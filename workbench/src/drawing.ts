// Drawing on a slide: by mouse, finger or keyboard (corners are set at the cross in the middle), and moving corners.
import { h, svg } from "./dom";
import type { Affine, Layer, Pane } from "./pane";
import type { Geometry } from "./regions";
import type { Ring } from "./shapes";

export type Tool = "pan" | "box" | "polygon" | "point";

interface Listeners {
  drawn: (pane: Pane, geometry: Geometry) => void;
  moved: (pane: Pane, geometry: Geometry) => void;
  toolChanged: (tool: Tool) => void;
}

interface Point {
  x: number;
  y: number;
}

const CLOSE_PX = 10;
const TRACE_PX = 5;

export class Drawing implements Layer {
  tool: Tool = "pan";
  private pane: Pane | null = null;
  private points: Point[] = [];
  private pointer: Point | null = null;
  private pressed = false;
  private edited: { pane: Pane; geometry: Geometry } | null = null;
  private readonly surface = h("div", { class: "draw-surface", hidden: true });
  private readonly cross = h("div", { class: "draw-cross", hidden: true, "aria-hidden": "true" });
  private readonly hint = h("div", { class: "draw-hint", role: "status", hidden: true });
  private readonly preview = svg("path", { class: "preview" });
  private readonly handles = svg("g", { class: "handles" });

  constructor(panes: Pane[], private readonly listeners: Listeners) {
    for (const pane of panes) {
      pane.layers.push(this);
      pane.element.addEventListener("keydown", (event) => this.key(event), true);
    }
    this.surface.addEventListener("pointerdown", (event) => this.down(event));
    this.surface.addEventListener("pointermove", (event) => this.move(event));
    this.surface.addEventListener("pointerup", (event) => this.up(event));
    this.surface.addEventListener("dblclick", () => this.finish());
    this.surface.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.pane?.zoom(event.deltaY < 0 ? 1.25 : 0.8);
    }, { passive: false });
  }

  use(tool: Tool, pane: Pane): void {
    this.points = [];
    this.pointer = null;
    this.pressed = false;
    this.tool = pane.slide ? tool : "pan";
    this.pane = pane;
    const drawing = this.tool !== "pan";
    const stage = pane.element.querySelector(".stage")!;
    stage.append(this.surface, this.cross, this.hint);
    pane.overlay.append(this.preview);
    for (const element of [this.surface, this.cross, this.hint]) element.hidden = !drawing;
    this.hint.textContent = {
      pan: "",
      box: "Drag a box, or set two corners at the cross with Enter. Esc ends.",
      polygon: "Click corners or drag along the outline; double-click or f closes it. Enter sets a corner at the cross. Esc ends.",
      point: "Click, or Enter sets the point at the cross. Esc ends.",
    }[this.tool];
    if (drawing) pane.focus();
    this.listeners.toolChanged(this.tool);
    pane.redraw();
  }

  /** Show handles at the corners of a region. */
  edit(pane: Pane, geometry: Geometry | null): void {
    this.edited = geometry ? { pane, geometry } : null;
    pane.overlay.append(this.handles);
    this.handles.replaceChildren();
    pane.redraw();
    if (!geometry || geometry.type === "MultiPoint" || geometry.type === "MultiPolygon") return;
    const rings: Ring[] = geometry.type === "Point" ? [[geometry.coordinates]] : geometry.coordinates.map((ring) => ring.slice(0, -1));
    rings.forEach((ring, ringIndex) => ring.forEach((_, index) => this.handles.append(this.handle(pane, rings, ringIndex, index))));
  }

  private handle(pane: Pane, rings: Ring[], ringIndex: number, index: number): SVGElement {
    const ring = rings[ringIndex]!;
    const handle = svg("circle", { r: 6, class: "handle" });
    (handle as unknown as { place: () => [number, number] }).place = () => ring[index]!;
    const commit = () => {
      const closed = rings.map((one) => [...one, one[0]!]);
      const geometry: Geometry = this.edited!.geometry.type === "Point" ? { type: "Point", coordinates: ring[0]! } : { type: "Polygon", coordinates: closed };
      this.listeners.moved(pane, geometry);
    };
    handle.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      handle.setPointerCapture(event.pointerId);
      const move = (moved: PointerEvent) => {
        const at = this.imagePoint(pane, moved);
        if (at) ring[index] = [at.x, at.y];
        pane.redraw();
      };
      handle.addEventListener("pointermove", move);
      handle.addEventListener("pointerup", () => {
        handle.removeEventListener("pointermove", move);
        commit();
      }, { once: true });
    });
    handle.addEventListener("dblclick", (event) => {
      event.stopPropagation();
      if (ring.length <= 3) return;
      ring.splice(index, 1);
      commit();
    });
    return handle;
  }

  private imagePoint(pane: Pane, event: MouseEvent): Point | null {
    const box = pane.overlay.getBoundingClientRect();
    const at = pane.toImage(event.clientX - box.left, event.clientY - box.top);
    return at && { x: round(at.x), y: round(at.y) };
  }

  // --- Mouse and finger ------------------------------------------------------------------------------------------------

  private down(event: PointerEvent): void {
    const at = this.pane && this.imagePoint(this.pane, event);
    if (!at || event.button !== 0) return;
    event.preventDefault();
    this.pane!.focus();
    this.surface.setPointerCapture(event.pointerId);
    this.pressed = true;
    if (this.tool === "point") return this.done({ type: "Point", coordinates: [at.x, at.y] });
    if (this.tool === "polygon" && this.points.length >= 3 && this.near(at, this.points[0]!)) return this.finish();
    this.points.push(at);
    this.pane!.redraw();
  }

  private move(event: PointerEvent): void {
    const at = this.pane && this.imagePoint(this.pane, event);
    if (!at) return;
    this.pointer = at;
    const last = this.points.at(-1);
    if (this.pressed && this.tool === "polygon" && last && !this.near(at, last, TRACE_PX)) this.points.push(at);
    if (this.points.length) this.pane!.redraw();
  }

  private up(event: PointerEvent): void {
    if (!this.pressed || !this.pane) return;
    this.pressed = false;
    const at = this.imagePoint(this.pane, event);
    const start = this.points[0];
    if (!at || !start) return;
    if (this.tool === "box" && !this.near(at, start)) return this.box(start, at);
    if (this.tool === "polygon" && this.points.length > 12 && this.near(at, start, 4 * CLOSE_PX)) this.finish();
  }

  private near(a: Point, b: Point, px = CLOSE_PX): boolean {
    const m = this.pane!.toScreen();
    return !!m && Math.hypot(a.x - b.x, a.y - b.y) * Math.hypot(m.a, m.b) < px;
  }

  // --- Keyboard --------------------------------------------------------------------------------------------------------

  private key(event: KeyboardEvent): void {
    if (this.tool === "pan" || !this.pane || (event.target as HTMLElement).matches("input, textarea")) return;
    const actions: Record<string, () => void> = {
      Enter: () => this.corner(),
      f: () => this.finish(),
      Backspace: () => this.points.pop(),
      Escape: () => (this.points.length ? (this.points = []) : this.use("pan", this.pane!)),
    };
    const action = actions[event.key];
    if (!action) return;
    action();
    this.pane.redraw();
    event.preventDefault();
    event.stopPropagation();
  }

  private corner(): void {
    const { width, height } = this.pane!.size;
    const centre = this.pane!.toImage(width / 2, height / 2);
    if (!centre) return;
    const at = { x: round(centre.x), y: round(centre.y) };
    if (this.tool === "point") return this.done({ type: "Point", coordinates: [at.x, at.y] });
    if (this.tool === "box" && this.points[0]) return this.box(this.points[0], at);
    this.points.push(at);
  }

  // --- What was drawn --------------------------------------------------------------------------------------------------

  private box(a: Point, b: Point): void {
    // Upright as seen: the other two corners come from the screen, also where the slide is turned.
    const pane = this.pane!;
    const m = pane.toScreen()!;
    const screen = (p: Point) => ({ x: m.a * p.x + m.c * p.y + m.e, y: m.b * p.x + m.d * p.y + m.f });
    const [p, q] = [screen(a), screen(b)];
    const corners = [p, { x: q.x, y: p.y }, q, { x: p.x, y: q.y }].map((c) => pane.toImage(c.x, c.y)!);
    const ring: Ring = [...corners, corners[0]!].map(({ x, y }) => [round(x), round(y)]);
    this.done({ type: "Polygon", coordinates: [ring] });
  }

  private finish(): void {
    if (this.tool !== "polygon" || this.points.length < 3) return;
    const ring: Ring = [...this.points, this.points[0]!].map(({ x, y }) => [x, y]);
    this.done({ type: "Polygon", coordinates: [ring] });
  }

  private done(geometry: Geometry): void {
    const pane = this.pane!;
    this.use("pan", pane);
    this.listeners.drawn(pane, geometry);
  }

  draw(pane: Pane, m: Affine): void {
    const at = (p: Point) => `${m.a * p.x + m.c * p.y + m.e} ${m.b * p.x + m.d * p.y + m.f}`;
    if (pane === this.pane) this.preview.setAttribute("d", this.previewPath(at, m));
    if (pane !== this.edited?.pane) return;
    for (const handle of this.handles.children) {
      const [x, y] = (handle as unknown as { place: () => [number, number] }).place();
      handle.setAttribute("cx", String(m.a * x + m.c * y + m.e));
      handle.setAttribute("cy", String(m.b * x + m.d * y + m.f));
    }
  }

  private previewPath(at: (p: Point) => string, m: Affine): string {
    const [start] = this.points;
    if (!start) return "";
    const end = this.pointer ?? start;
    if (this.tool !== "box") return `M${[...this.points, ...(this.pressed ? [] : [end])].map(at).join("L")}`;
    const screen = (p: Point) => [m.a * p.x + m.c * p.y + m.e, m.b * p.x + m.d * p.y + m.f] as const;
    const [[x0, y0], [x1, y1]] = [screen(start), screen(end)];
    return `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
  }
}

const round = (value: number): number => Math.round(value * 100) / 100;
