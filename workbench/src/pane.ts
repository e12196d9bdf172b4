// One slide on screen: OpenSeadragon, scale bar, resolution, rotation, keys, and layers drawn over it.
import OpenSeadragon from "openseadragon";
import { address, get, slidePath, type SlideInfo } from "./api";
import { fill, h, svg } from "./dom";
import { mppText, scaleBar } from "./scale";

/** Image pixels (level 0) to pixels of the pane: x' = a x + c y + e, y' = b x + d y + f. */
export interface Affine {
  a: number;
  b: number;
  c: number;
  d: number;
  e: number;
  f: number;
}

export interface View {
  x: number;
  y: number;
  /** Image pixels of level 0 per pixel on screen. */
  downsample: number;
  rotation: number;
}

export interface Rect {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Something drawn over the slide whenever the view changes. */
export interface Layer {
  draw(pane: Pane, toScreen: Affine): void;
}

const STEP = 0.25;
const ZOOM_STEP = 1.5;
const ROTATION_STEP = 15;

export class Pane {
  readonly element: HTMLElement;
  readonly canvas = h("canvas", { class: "heat-canvas", "aria-hidden": "true" });
  readonly overlay = svg("svg", { class: "overlay" });
  readonly viewer: OpenSeadragon.Viewer;
  readonly layers: Layer[] = [];
  slide: SlideInfo | null = null;
  onfocus: () => void = () => {};
  onview: (pane: Pane) => void = () => {};
  onopen: (pane: Pane) => void = () => {};

  private readonly stage = h("div", { class: "stage", tabindex: "0", role: "application" });
  private readonly card = h("div", { class: "card-error", role: "alert", hidden: true });
  private readonly bar = h("div", { class: "scale-bar" });
  private readonly barLine = h("div", { class: "scale-line" });
  private readonly barLabel = h("span", {});
  private readonly status = h("div", { class: "status" });
  private readonly busy = h("div", { class: "busy", hidden: true }, "loading");
  private readonly views = new Map<string, View>();
  private opening: AbortController | null = null;
  private frame = 0;
  private waiting: (() => void)[] = [];

  constructor(name: string) {
    this.stage.setAttribute("aria-label", `${name}: arrow keys move, plus and minus zoom, r rotates`);
    const holder = h("div", { class: "osd" });
    this.bar.append(this.barLine, this.barLabel);
    this.stage.append(holder, this.canvas, this.overlay);
    this.element = h("section", { class: "pane", "aria-label": name }, this.stage, this.card, this.bar, this.status, this.busy);
    this.viewer = OpenSeadragon({
      element: holder,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.16,
      navigatorAutoFade: false,
      animationTime: 0.35,
      springStiffness: 9,
      blendTime: 0,
      minZoomImageRatio: 0.6,
      maxZoomPixelRatio: 4,
      visibilityRatio: 0.3,
      imageLoaderLimit: 6,
      maxImageCacheCount: 400,
      timeout: 60_000,
      crossOriginPolicy: false,
      autoResize: false, // below: the same place stays in the middle, at the same size
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { pinchRotate: false },
    });
    (this.viewer as unknown as { innerTracker: { keyDownHandler: unknown; keyHandler: unknown } }).innerTracker.keyDownHandler = null;
    (this.viewer as unknown as { innerTracker: { keyDownHandler: unknown; keyHandler: unknown } }).innerTracker.keyHandler = null;
    this.viewer.canvas.tabIndex = -1;
    this.viewer.addHandler("update-viewport", () => this.redraw());
    this.viewer.addHandler("rotate", () => this.redraw());
    this.viewer.addHandler("viewport-change", () => this.onview(this));
    this.viewer.addHandler("open-failed", () => this.fail("the slide cannot be shown"));
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("pointerdown", () => {
      this.onfocus();
      this.stage.focus({ preventScroll: true });
    });
    this.stage.addEventListener("focus", () => this.onfocus());
    new ResizeObserver(() => this.resized()).observe(this.stage);
  }

  private fit(): boolean {
    const { width, height } = this.size;
    const known = this.viewer.viewport?.getContainerSize();
    if (!known || !width || !height || (known.x === width && known.y === height)) return false;
    this.viewer.viewport.resize(new OpenSeadragon.Point(width, height), true);
    return true;
  }

  private resized(): void {
    const view = this.view();
    if (!this.fit()) return;
    if (view) this.setView(view, true);
    this.viewer.forceRedraw();
    this.redraw();
  }

  focus(): void {
    this.stage.focus({ preventScroll: true });
  }

  /** Show a slide; the place last looked at on it comes back. */
  async open(key: string): Promise<void> {
    this.remember();
    this.opening?.abort();
    const opening = (this.opening = new AbortController());
    const began = performance.now();
    this.element.dataset.state = "loading";
    this.busy.hidden = false;
    this.card.hidden = true;
    try {
      const info = await get<SlideInfo>(slidePath(key), opening.signal);
      if (opening.signal.aborted) return;
      this.slide = info;
      this.stage.setAttribute("aria-label", `Slide ${info.id}: arrow keys move, plus and minus zoom, r rotates`);
      this.viewer.addOnceHandler("open", () => {
        this.fit(); // the pane may have been hidden when the viewer was made
        this.viewer.viewport.setRotation(0, true);
        this.viewer.viewport.goHome(true);
        const view = this.views.get(info.key);
        if (view) this.setView(view, true);
        this.onopen(this);
        for (const callback of this.waiting.splice(0)) callback();
        this.redraw();
        this.viewer.whenFullyLoaded(() => {
          if (opening.signal.aborted) return;
          this.element.dataset.state = "shown";
          this.busy.hidden = true;
          performance.measure("first view", { start: began, end: performance.now() });
        });
      });
      this.viewer.open(tileSource(info) as never);
    } catch (error) {
      if (opening.signal.aborted) return;
      this.fail(error instanceof Error ? error.message : String(error));
    }
  }

  /** Call once, when the slide that is being opened can be moved. */
  onceOpen(callback: () => void): void {
    this.waiting.push(callback);
  }

  close(): void {
    this.opening?.abort();
    this.slide = null;
    this.viewer.close();
    this.busy.hidden = true;
  }

  private fail(reason: string): void {
    this.viewer.close();
    this.slide = null;
    this.element.dataset.state = "failed";
    this.busy.hidden = true;
    this.card.hidden = false;
    fill(this.card, h("h2", {}, "This slide cannot be shown"), h("p", {}, reason));
    fill(this.status);
    this.bar.hidden = true;
    this.onopen(this);
  }

  private remember(): void {
    const view = this.view();
    if (this.slide && view) this.views.set(this.slide.key, view);
  }

  /** Called once everything in view is sharp. */
  whenSharp(callback: () => void): void {
    this.viewer.whenFullyLoaded(callback);
  }

  get size(): { width: number; height: number } {
    return { width: this.stage.clientWidth, height: this.stage.clientHeight };
  }

  view(): View | null {
    const item = this.viewer.world.getItemAt(0);
    if (!this.slide || !item) return null;
    const viewport = this.viewer.viewport;
    const centre = item.viewportToImageCoordinates(viewport.getCenter(false));
    return {
      x: centre.x,
      y: centre.y,
      downsample: this.slide.width / (viewport.getZoom(false) * viewport.getContainerSize().x),
      rotation: viewport.getRotation(false),
    };
  }

  setView(view: View, immediately = false): void {
    const item = this.viewer.world.getItemAt(0);
    if (!this.slide || !item) return;
    const viewport = this.viewer.viewport;
    viewport.setRotation(view.rotation, immediately);
    viewport.zoomTo(this.slide.width / (view.downsample * viewport.getContainerSize().x), undefined, immediately);
    viewport.panTo(item.imageToViewportCoordinates(view.x, view.y), immediately);
    viewport.applyConstraints(immediately);
  }

  /** What is in view, as an upright rectangle of level-0 pixels. */
  inView(): Rect | null {
    const { width, height } = this.size;
    const corners = [this.toImage(0, 0), this.toImage(width, 0), this.toImage(0, height), this.toImage(width, height)];
    if (!this.slide || corners.some((corner) => !corner)) return null;
    const within = (value: number, most: number) => Math.min(Math.max(value, 0), most);
    const xs = corners.map((corner) => within(corner!.x, this.slide!.width));
    const ys = corners.map((corner) => within(corner!.y, this.slide!.height));
    const [x, y] = [Math.min(...xs), Math.min(...ys)];
    return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
  }

  /** Bring a rectangle of level-0 pixels into view, with what surrounds it. */
  show(rect: Rect): void {
    const view = this.view();
    if (!view || !this.slide) return;
    const { width, height } = this.size;
    const downsample = Math.max((rect.width * 3) / width, (rect.height * 3) / height, 0.25);
    this.setView({ ...view, x: rect.x + rect.width / 2, y: rect.y + rect.height / 2, downsample });
  }

  home(): void {
    this.viewer.viewport?.setRotation(0);
    this.viewer.viewport?.goHome();
  }

  zoom(factor: number): void {
    this.viewer.viewport?.zoomBy(factor);
    this.viewer.viewport?.applyConstraints();
  }

  rotate(degrees: number): void {
    this.viewer.viewport?.rotateBy(degrees);
  }

  /** Move by a share of what is in view: the next field, up, down, left or right. */
  pan(dx: number, dy: number): void {
    const viewport = this.viewer.viewport;
    if (!this.slide || !viewport) return;
    const { width, height } = this.size;
    const isField = Math.max(Math.abs(dx), Math.abs(dy)) >= 1; // a whole field is stepped to, as a stage does
    const began = performance.now();
    viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(dx * width, dy * height)), isField);
    viewport.applyConstraints(isField);
    if (!isField) return;
    this.viewer.forceRedraw();
    requestAnimationFrame(() =>
      this.whenSharp(() => performance.measure("next field", { start: began, end: performance.now() })),
    );
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 1 : STEP;
    const actions: Record<string, () => void> = {
      ArrowLeft: () => this.pan(-step, 0),
      ArrowRight: () => this.pan(step, 0),
      ArrowUp: () => this.pan(0, -step),
      ArrowDown: () => this.pan(0, step),
      "+": () => this.zoom(ZOOM_STEP),
      "=": () => this.zoom(ZOOM_STEP),
      "-": () => this.zoom(1 / ZOOM_STEP),
      _: () => this.zoom(1 / ZOOM_STEP),
      r: () => this.rotate(ROTATION_STEP),
      R: () => this.rotate(-ROTATION_STEP),
      "0": () => this.home(),
      Home: () => this.home(),
    };
    const action = actions[event.key];
    if (!action) return;
    action();
    event.preventDefault();
  }

  /** Image pixels to pixels of the pane, as the view is now. */
  toScreen(): Affine | null {
    const item = this.viewer.world.getItemAt(0);
    if (!this.slide || !item) return null;
    const at = (x: number, y: number) => item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
    const [w, hgt] = [this.slide.width, this.slide.height];
    const [o, x, y] = [at(0, 0), at(w, 0), at(0, hgt)];
    return { a: (x.x - o.x) / w, b: (x.y - o.y) / w, c: (y.x - o.x) / hgt, d: (y.y - o.y) / hgt, e: o.x, f: o.y };
  }

  toImage(x: number, y: number): { x: number; y: number } | null {
    const m = this.toScreen();
    if (!m) return null;
    const det = m.a * m.d - m.b * m.c;
    const [dx, dy] = [x - m.e, y - m.f];
    return { x: (m.d * dx - m.c * dy) / det, y: (m.a * dy - m.b * dx) / det };
  }

  /** Draw layers, bar and numbers at the next frame. */
  redraw(): void {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.drawNow();
    });
  }

  private drawNow(): void {
    const { width, height } = this.size;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const context = this.canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const m = this.toScreen();
    this.overlay.toggleAttribute("hidden", !m);
    if (!m || !this.slide) return;
    context.setTransform(ratio * m.a, ratio * m.b, ratio * m.c, ratio * m.d, ratio * m.e, ratio * m.f);
    for (const layer of this.layers) layer.draw(this, m);
    this.drawStatus(Math.hypot(m.a, m.b));
  }

  private drawStatus(screenPerImage: number): void {
    const slide = this.slide!;
    const most = Math.max(60, Math.min(160, this.size.width / 4));
    const rotation = Math.round(((this.viewer.viewport.getRotation(true) % 360) + 360) % 360);
    const turned = rotation ? ` · ${rotation}°` : "";
    this.bar.hidden = false;
    if (slide.mpp === null) {
      const bar = scaleBar(1 / screenPerImage, most);
      this.barLine.style.width = `${bar.px}px`;
      this.barLabel.textContent = `${Math.round(bar.px / screenPerImage)} px`;
      fill(this.status, `µm unknown: the file does not say${turned}`);
      return;
    }
    const mpp = slide.mpp / screenPerImage;
    const bar = scaleBar(mpp, most);
    this.barLine.style.width = `${bar.px}px`;
    this.barLabel.textContent = bar.label;
    fill(this.status, `${mppText(mpp)}${mpp < slide.mpp * 0.98 ? ` (scanned at ${mppText(slide.mpp)})` : ""}${turned}`);
  }
}

function tileSource(info: SlideInfo): Record<string, unknown> {
  const prefix = `${slidePath(info.key)}/${info.version}_files`;
  const top = Math.ceil(Math.log2(Math.max(info.width, info.height, 2)));
  return {
    width: info.width,
    height: info.height,
    tileSize: info.tile,
    minLevel: Math.max(0, Math.min(top, Math.floor(Math.log2(info.tile)))),
    maxLevel: top,
    getTileUrl: (level: number, x: number, y: number) => address(`${prefix}/${level}/${x}_${y}.jpeg`),
  };
}
