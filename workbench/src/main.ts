// The page: slides as tabs, one or two of them in view, and what can be asked of them beside.
import { get, type State } from "./api";
import { h } from "./dom";
import { failed, mountNotices } from "./notice";
import { Workbench } from "./workbench";

async function begin(): Promise<void> {
  document.body.append(mountNotices());
  try {
    const state = await get<State>("/api/state");
    document.body.prepend(new Workbench(state).element);
  } catch (error) {
    document.body.prepend(h("main", { class: "stopped" }, h("h1", {}, "PathFLIP workbench"), h("p", {}, String((error as Error).message))));
    failed(error);
  }
}

// OpenSeadragon would add a style sheet of its own, which the content security policy forbids, unless it finds an
// element of this name. In a namespace of its own the element is no style sheet.
const placeholder = document.createElementNS("urn:pathflip", "style");
placeholder.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(placeholder);

void begin();
