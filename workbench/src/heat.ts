// Similarity as an image over the slide: one picture a phrase, a colour a cell of the tile lattice.
import type { Layer, Pane } from "./pane";

export interface HeatMap {
  x: number;
  y: number;
  step: number;
  columns: number;
  rows: number;
  low: number;
  high: number;
  cells: string;
}

export interface Shown {
  map: HeatMap;
  /** null: the colour scale; else one colour whose strength is the score. */
  color: string | null;
}

// Control points of matplotlib's "inferno".
const SCALE = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"].map(rgb);
/** Colours that stand apart on pink tissue and from each other, also for most colour-blind eyes; 4.5:1 on white. */
export const PHRASE_COLORS = ["#0050c8", "#a84b00", "#00703c", "#7a1fa2", "#b0003a", "#006d77"];

export function rgb(hex: string): [number, number, number] {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)) as [number, number, number];
}

export function scaleColor(value: number): [number, number, number] {
  const at = Math.min(Math.max(value, 0), 1) * (SCALE.length - 1);
  const [low, high] = [SCALE[Math.floor(at)]!, SCALE[Math.min(Math.ceil(at), SCALE.length - 1)]!];
  return [0, 1, 2].map((c) => Math.round(low[c]! + (high[c]! - low[c]!) * (at % 1))) as [number, number, number];
}

/** Scores between 0 (lowest of this map) and 1, -1 where there is no tile. */
export function decode(map: HeatMap): Float32Array {
  const bytes = Uint8Array.from(atob(map.cells), (character) => character.charCodeAt(0));
  const steps = new DataView(bytes.buffer);
  const values = new Float32Array(map.columns * map.rows);
  for (let i = 0; i < values.length; i++) {
    const step = steps.getUint16(2 * i, true);
    values[i] = step === 0 ? -1 : (step - 1) / 65534;
  }
  return values;
}

export class HeatLayer implements Layer {
  opacity = 0.6;
  threshold = 0.5;
  private shown: Shown[] = [];
  private images: HTMLCanvasElement[] = [];
  private readonly decoded = new WeakMap<HeatMap, Float32Array>();

  constructor(private readonly pane: Pane) {
    pane.layers.unshift(this);
  }

  set(shown: Shown[]): void {
    this.shown = shown;
    this.paint();
  }

  /** Colour the cells again: another threshold, other phrases. */
  paint(): void {
    this.images = this.shown.map(({ map, color }) => {
      if (!this.decoded.has(map)) this.decoded.set(map, decode(map));
      return painted(map, this.decoded.get(map)!, this.threshold, color);
    });
    this.pane.canvas.dataset.maps = String(this.images.length);
    this.pane.redraw();
  }

  draw(pane: Pane): void {
    if (!this.images.length) return;
    const context = pane.canvas.getContext("2d")!;
    context.save();
    context.globalAlpha = this.opacity;
    context.imageSmoothingEnabled = false;
    this.shown.forEach(({ map }, index) => {
      context.drawImage(this.images[index]!, map.x, map.y, map.columns * map.step, map.rows * map.step);
    });
    context.restore();
  }
}

function painted(map: HeatMap, values: Float32Array, threshold: number, color: string | null): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, map.columns);
  canvas.height = Math.max(1, map.rows);
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(canvas.width, canvas.height);
  const own = color ? rgb(color) : null;
  values.forEach((value, cell) => {
    if (value < 0 || value < threshold) return;
    const [r, g, b] = own ?? scaleColor(value);
    image.data.set([r, g, b, own ? Math.round(255 * value) : 255], 4 * cell);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}
