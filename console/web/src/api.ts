// The API's bodies (docs/api.md) and one way to ask for them.

export interface Check { name: string; ok: boolean; detail: string }
export interface Door { protocol: string; address: string; does: string; try: string }
export interface Status {
  ready: boolean; version: string; now: number; started: number;
  checks: Check[]; warnings: string[]; doors: Door[]; user: string; login: boolean;
}
export interface Device {
  id: string; slot: number; source: number; lat: number | null; lon: number | null; speed: number | null; heading: number | null;
  last_seen: number; topic: string; sent: number | null; latency_ms: number | null; clock_skew_ms: number | null; messages: number; stale: boolean;
}
export interface Fix { at: number; lat: number; lon: number }
export interface DeviceDetail extends Device {
  sequence: number | null; missing: number; repeated: number; reordered: number; track: Fix[];
}
export interface Devices { devices: Device[]; total: number; next: string }
export interface Reason { reason: string; kind: string; count: number }
export interface Stage {
  name: string; total: number; rate: number; samples: number; p50_ms: number | null; p99_ms: number | null;
  joined: Reason[]; left: Reason[]; unaccounted: number | null;
}
export interface Pipeline {
  now: number; started: number; stages: Stage[];
  clock_skew: { devices: number; p50_ms: number | null; max_ms: number | null };
  hub: { pages: number; frames: number; coalesced: number; bytes: number };
}
export interface Topic { name: string; partitions: number; records: number; bytes: number | null; first: number | null; last: number | null }
export interface Topics { topics: Topic[]; next: string }
export interface LogRecord {
  partition: number; offset: number; time: number; key: string; headers: { [k: string]: string }; size: number;
  value: string | null; base64: string | null; truncated: boolean;
}
export interface Source { id: number; name: string; kind: string; attribution?: string; label?: string }
export interface Hello { version: string; now: number; tick: number; sources: Source[] }

/** What the node answered instead of what was asked for. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly login: boolean,
    message: string,
  ) {
    super(message);
  }
}

const refusal = async (r: Response): Promise<Refused> => {
  try {
    const p = (await r.json()) as { title?: string; detail?: string; login?: boolean };
    return new Refused(r.status, p.login === true, p.detail || p.title || r.statusText);
  } catch {
    return new Refused(r.status, false, r.statusText);
  }
};

/** Called when a login is missing, wherever that shows. */
let onLogin = (): void => {};
export const whenLoginIsMissing = (f: () => void): void => {
  onLogin = f;
};

export async function ask<T>(path: string, init?: RequestInit): Promise<T> {
  const r = await fetch("/api/v1/" + path, { credentials: "same-origin", cache: "no-store", ...init });
  if (!r.ok) {
    const e = await refusal(r);
    if (e.status === 401 && e.login) onLogin();
    throw e;
  }
  return (r.status === 204 ? undefined : await r.json()) as T;
}

export interface DeviceQuery { q?: string; sort?: string; limit?: number; cursor?: string; slots?: number[] }

export function devices(query: DeviceQuery, signal?: AbortSignal): Promise<Devices> {
  const p = new URLSearchParams();
  if (query.q) p.set("q", query.q);
  if (query.sort) p.set("sort", query.sort);
  if (query.limit) p.set("limit", String(query.limit));
  if (query.cursor) p.set("cursor", query.cursor);
  if (query.slots) p.set("slots", query.slots.join(","));
  return ask("devices?" + p, signal ? { signal } : undefined);
}

export const device = (id: string): Promise<DeviceDetail> => ask("devices/" + encodeURIComponent(id));
export const status = (): Promise<Status> => ask("status");
export const topics = (cursor = ""): Promise<Topics> => ask("topics?limit=1000" + (cursor ? "&cursor=" + encodeURIComponent(cursor) : ""));
export const login = (name: string, password: string): Promise<{ user: string }> =>
  ask("login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name, password }) });
export const logout = (): Promise<void> => ask("logout", { method: "POST" });
