// Side by side: what one pane does on screen, the other does too, in microns where both slides know them.
import type { Pane, View } from "./pane";

interface Last {
  key: string;
  view: View;
}

export class Link {
  enabled = true;
  private readonly last = new Map<Pane, Last>();
  private following = false;

  constructor(private readonly panes: () => Pane[]) {}

  /** A pane's view changed: move the others by as much as they would see on screen. */
  moved(pane: Pane): void {
    const view = pane.view();
    const before = this.last.get(pane);
    if (!view || !pane.slide) return;
    this.last.set(pane, { key: pane.slide.key, view });
    if (this.following || !this.enabled || before?.key !== pane.slide.key) return;
    this.following = true;
    try {
      for (const other of this.panes()) if (other !== pane) this.follow(pane, other, before.view, view);
    } finally {
      this.following = false;
    }
  }

  /** A slide was opened beside another: show it at the same microns per pixel and angle. */
  opened(pane: Pane): void {
    const other = this.panes().find((one) => one !== pane && one.slide);
    const [own, view] = [pane.view(), other?.view()];
    if (!this.enabled || !own || !view || !pane.slide?.mpp || !other?.slide?.mpp) return;
    const same = { ...own, downsample: (view.downsample * other.slide.mpp) / pane.slide.mpp, rotation: view.rotation };
    this.last.delete(pane);
    pane.setView(same, true);
  }

  private follow(pane: Pane, other: Pane, before: View, now: View): void {
    const own = other.view();
    if (!own || !other.slide || !pane.slide) return;
    const same = pane.slide.mpp !== null && other.slide.mpp !== null;
    const perPixel = same ? pane.slide.mpp! / other.slide.mpp! : own.downsample / before.downsample;
    const turn = ((now.rotation - own.rotation) * Math.PI) / 180;
    const [dx, dy] = [(now.x - before.x) * perPixel, (now.y - before.y) * perPixel];
    const moved: View = {
      x: own.x + dx * Math.cos(turn) - dy * Math.sin(turn),
      y: own.y + dx * Math.sin(turn) + dy * Math.cos(turn),
      downsample: (own.downsample * now.downsample) / before.downsample,
      rotation: own.rotation + now.rotation - before.rotation,
    };
    other.setView(moved, true);
    this.last.set(other, { key: other.slide.key, view: moved });
  }
}
