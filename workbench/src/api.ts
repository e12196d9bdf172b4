// Talking to the server. In a notebook's frame cookies are withheld, so the token of the address goes along.

export interface SlideEntry {
  key: string;
  id: string;
  folder: string;
}

export interface State {
  title: string;
  version: string;
  note: string;
  slides: SlideEntry[];
  model: ModelState | null;
  cases: boolean;
  maps: boolean;
}

export interface ModelState {
  state: "loading" | "ready" | "failed";
  message?: string;
  talks: boolean;
  calibrated?: boolean;
  note?: string;
}

export interface SlideInfo {
  key: string;
  id: string;
  version: string;
  width: number;
  height: number;
  tile: number;
  mpp: number | null;
  vendor: string;
  reader: string;
  bounds: [number, number, number, number] | null;
}

const token = new URLSearchParams(location.search).get("token");

/** An address of the server, with the token where cookies do not travel. */
export function address(path: string): string {
  const relative = path.replace(/^\//, "./");
  return token ? `${relative}${relative.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}` : relative;
}

/** This page, so that others can be told who changed something. */
export const PAGE = crypto.randomUUID?.() ?? String(Math.random());

/** What the server said went wrong, in one line. */
export class ServerError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try {
    message = ((await response.json()) as { error?: string }).error ?? message;
  } catch {
    // not JSON: the status says it
  }
  throw new ServerError(message, response.status);
}

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address(path), { ...init, headers: { "X-PathFLIP": "1", "X-Page": PAGE, ...init.headers } });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ServerError("the workbench's server cannot be reached; is it still running?", 0);
  }
  return checked(response);
}

/** GET JSON. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await request(path, { signal: signal ?? null })).json() as Promise<T>;
}

/** Send JSON, get JSON. */
export async function send<T>(method: "POST" | "PUT" | "DELETE", path: string, body?: unknown, signal?: AbortSignal) {
  const init: RequestInit = { method, signal: signal ?? null };
  if (body !== undefined) {
    init.body = typeof body === "string" ? body : JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  return (await request(path, init)).json() as Promise<T>;
}

/** Send JSON, get a stream of server-sent events. */
export async function stream(path: string, body: unknown, onEvent: (kind: string, data: unknown) => void, signal?: AbortSignal) {
  const response = await request(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
    signal: signal ?? null,
  });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const messages = waiting.split("\n\n");
    waiting = messages.pop() ?? "";
    for (const message of messages) {
      const kind = /^event: (.*)$/m.exec(message)?.[1] ?? "message";
      const data = /^data: (.*)$/m.exec(message)?.[1];
      if (data !== undefined) onEvent(kind, JSON.parse(data));
    }
  }
}

export const slidePath = (key: string): string => `/api/slides/${key}`;
