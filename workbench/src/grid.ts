// All slides as thumbnails; a slide that cannot be opened is a card with the reason.
import { address, get, slidePath, type SlideEntry, type SlideInfo } from "./api";
import { fill, h } from "./dom";

const PAGE = 120;

export class Grid {
  readonly element = h("main", { class: "grid-page", "aria-label": "Slides" });
  private readonly search = h("input", { type: "search", placeholder: "Find a slide by name", "aria-label": "Find a slide by name" });
  private readonly count = h("p", { class: "grid-count", role: "status" });
  private readonly list = h("ul", { class: "grid" });
  private readonly more = h("button", { type: "button", class: "secondary", onclick: () => this.showMore() }, "Show more");
  private shown = PAGE;
  private readonly watcher: IntersectionObserver;

  constructor(
    private readonly slides: SlideEntry[],
    private readonly open: (key: string) => void,
    private readonly openBeside: (key: string) => void,
  ) {
    this.watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        this.watcher.unobserve(entry.target);
        void this.load(entry.target as HTMLElement);
      }
    }, { rootMargin: "200px" });
    this.search.addEventListener("input", () => {
      this.shown = PAGE;
      this.render();
    });
    this.element.append(h("div", { class: "grid-head" }, h("h1", {}, "Slides"), this.search), this.count, this.list, this.more);
    this.render();
  }

  private showMore(): void {
    this.shown += PAGE;
    this.render();
  }

  private render(): void {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = this.slides.filter((slide) => words.every((word) => `${slide.folder}/${slide.id}`.toLowerCase().includes(word)));
    this.count.textContent = `${fitting.length} of ${this.slides.length} slides`;
    this.more.hidden = fitting.length <= this.shown;
    fill(this.list, ...fitting.slice(0, this.shown).map((slide) => this.cardOf(slide)));
  }

  private cardOf(slide: SlideEntry): HTMLElement {
    const button = h(
      "button",
      {
        type: "button",
        class: "card",
        onclick: (event: MouseEvent) => (event.shiftKey ? this.openBeside : this.open)(slide.key),
      },
      h("span", { class: "thumb" }),
      h("span", { class: "card-name" }, slide.id),
      h("span", { class: "card-detail" }, slide.folder),
    );
    button.dataset.key = slide.key;
    this.watcher.observe(button);
    return h("li", {}, button);
  }

  private async load(card: HTMLElement): Promise<void> {
    const path = slidePath(card.dataset.key!);
    const detail = card.querySelector(".card-detail")!;
    const thumb = card.querySelector(".thumb")!;
    try {
      const info = await get<SlideInfo>(path);
      const image = h("img", { alt: "", src: address(`${path}/thumbnail.jpg?v=${info.version}`) });
      image.addEventListener("error", () => fill(thumb, h("span", { class: "thumb-none" }, "no picture")));
      fill(thumb, image);
      const size = info.mpp
        ? `${((info.width * info.mpp) / 1000).toFixed(1)} × ${((info.height * info.mpp) / 1000).toFixed(1)} mm`
        : `${info.width} × ${info.height} px, µm unknown`;
      detail.textContent = [detail.textContent, size].filter(Boolean).join(" · ");
    } catch (error) {
      card.classList.add("broken");
      fill(thumb, h("span", { class: "thumb-none" }, "cannot be opened"));
      detail.textContent = error instanceof Error ? error.message : String(error);
      card.title = detail.textContent;
    }
  }
}
