// Outlines over a slide, in level-0 pixels: found regions, evidence, drawn regions. One group follows the view, so that
// panning moves one attribute however many shapes there are; labels and points keep their size.
import { svg } from "./dom";
import type { Affine, Layer, Pane } from "./pane";

export type Ring = [number, number][];

export interface Shape {
  id: string;
  rings: Ring[];
  point?: boolean;
  color: string;
  label: string;
  strong?: boolean;
  dashed?: boolean;
  onclick?: () => void;
}

export class Shapes implements Layer {
  private readonly group = svg("g", { class: "shapes" });
  private readonly labels = svg("g", { class: "shape-labels" });
  private readonly elements = new Map<string, SVGElement>();
  private shapes: Shape[] = [];
  private matrix: Affine | null = null;

  constructor(private readonly pane: Pane) {
    pane.overlay.append(this.group, this.labels);
    pane.layers.push(this);
  }

  set(shapes: Shape[]): void {
    this.shapes = shapes;
    this.elements.clear();
    this.group.replaceChildren(
      ...shapes.flatMap((shape) => {
        const look = `shape${shape.strong ? " strong" : ""}${shape.dashed ? " dashed" : ""}${shape.onclick ? " clickable" : ""}`;
        const path = svg("path", { d: pathOf(shape), class: look, stroke: shape.color, fill: shape.color });
        if (shape.onclick) path.addEventListener("click", shape.onclick);
        this.elements.set(shape.id, path);
        if (shape.point) return [path];
        const halo = svg("path", { d: pathOf(shape), class: "halo" });
        return [halo, path];
      }),
    );
    this.matrix = null;
    this.pane.redraw();
  }

  element(id: string): SVGElement | undefined {
    return this.elements.get(id);
  }

  /** The same outlines on a canvas, for a picture. */
  paint(context: CanvasRenderingContext2D, m: Affine): void {
    const size = 9 / Math.hypot(m.a, m.b);
    for (const shape of this.shapes) {
      const path = new Path2D();
      path.addPath(new Path2D(pathOf(shape, size)), new DOMMatrix([m.a, m.b, m.c, m.d, m.e, m.f]));
      for (const [style, width] of [["rgb(255 255 255 / 85%)", 5], [shape.color, 2.5]] as const) {
        context.strokeStyle = style;
        context.lineWidth = width;
        context.stroke(path);
      }
      if (!shape.label) continue;
      const at = this.topCorner(shape, m);
      context.font = "bold 13px system-ui, sans-serif";
      context.strokeStyle = "#fff";
      context.lineWidth = 4;
      context.fillStyle = shape.color;
      context.strokeText(shape.label, at.x, at.y - 5);
      context.fillText(shape.label, at.x, at.y - 5);
    }
  }

  draw(_pane: Pane, m: Affine): void {
    const same = this.matrix && (Object.keys(m) as (keyof Affine)[]).every((key) => this.matrix![key] === m[key]);
    if (same) return;
    this.matrix = m;
    this.group.setAttribute("transform", `matrix(${m.a} ${m.b} ${m.c} ${m.d} ${m.e} ${m.f})`);
    const size = 9 / Math.hypot(m.a, m.b);
    for (const shape of this.shapes) if (shape.point) this.elements.get(shape.id)!.setAttribute("d", pathOf(shape, size));
    const { width, height } = this.pane.size;
    const labels: SVGElement[] = [];
    for (const shape of this.shapes) {
      if (!shape.label || labels.length >= 60) continue;
      const corner = this.topCorner(shape, m);
      if (corner.x < -40 || corner.y < 0 || corner.x > width || corner.y > height + 10) continue;
      const text = shape.label.length > 40 ? `${shape.label.slice(0, 39)}…` : shape.label;
      labels.push(svg("text", { x: corner.x, y: corner.y - 5, class: "shape-label", fill: shape.color }, text));
    }
    this.labels.replaceChildren(...labels);
  }

  /** Where the label goes: the left end of the shape's upper edge on screen, whatever the rotation. */
  private topCorner(shape: Shape, m: Affine): { x: number; y: number } {
    let best = { x: 0, y: Infinity };
    for (const [x, y] of shape.rings[0] ?? []) {
      const at = { x: m.a * x + m.c * y + m.e, y: m.b * x + m.d * y + m.f };
      if (at.y < best.y - 0.5 || (at.y < best.y + 0.5 && at.x < best.x)) best = at;
    }
    return shape.point ? { x: best.x + 8, y: best.y } : best;
  }
}

export function boxRing(box: { x: number; y: number; width: number; height: number }): Ring {
  const [x1, y1] = [box.x + box.width, box.y + box.height];
  return [[box.x, box.y], [x1, box.y], [x1, y1], [box.x, y1], [box.x, box.y]];
}

function pathOf(shape: Shape, size = 1): string {
  if (shape.point) {
    return (shape.rings[0] ?? [])
      .map(([x, y]) => `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0z`)
      .join("");
  }
  return shape.rings.map((ring) => `M${ring.map(([x, y]) => `${x} ${y}`).join("L")}Z`).join("");
}
