// The view as a picture: slide, heat, outlines, scale bar, and the line that must go with it.
import { h } from "./dom";
import type { Pane } from "./pane";
import { mppText, scaleBar } from "./scale";
import { Shapes } from "./shapes";

const FOOT = 46;

export async function savePNG(pane: Pane, note: string): Promise<void> {
  const slide = pane.slide;
  const m = pane.toScreen();
  if (!slide || !m) throw new Error("There is no slide in view.");
  const slideCanvas = (pane.viewer.drawer as unknown as { canvas: HTMLCanvasElement }).canvas;
  const { width, height } = pane.size;
  const ratio = slideCanvas.width / width;
  const canvas = h("canvas", { width: Math.round(width * ratio), height: Math.round((height + FOOT) * ratio) });
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height + FOOT);
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.drawImage(slideCanvas, 0, 0, width, height);
  context.drawImage(pane.canvas, 0, 0, width, height);
  for (const layer of pane.layers) if (layer instanceof Shapes) layer.paint(context, m);
  context.restore();
  foot(context, pane, Math.hypot(m.a, m.b), note, width, height);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (!blob) throw new Error("The picture could not be made.");
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: `${slide.id}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function foot(context: CanvasRenderingContext2D, pane: Pane, screenPerImage: number, note: string, width: number, height: number): void {
  const mpp = pane.slide!.mpp;
  const bar = scaleBar((mpp ?? 1) / screenPerImage, Math.min(180, width / 4));
  const label = mpp === null ? `${Math.round(bar.px / screenPerImage)} px (µm unknown)` : `${bar.label} · ${mppText(mpp / screenPerImage)}`;
  context.fillStyle = "#15262b";
  context.fillRect(10, height + 12, bar.px, 4);
  context.font = "12px system-ui, sans-serif";
  context.fillText(label, 10, height + 34);
  context.textAlign = "right";
  context.fillText(pane.slide!.id, width - 10, height + 18, width * 0.6);
  context.fillStyle = "#4d6066";
  context.fillText(note, width - 10, height + 36, width * 0.65);
}
