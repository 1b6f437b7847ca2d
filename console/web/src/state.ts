// What the page knows, as signals: the live channel writes them, views read them.

import { computed, effect, signal } from "@preact/signals";
import * as api from "./api";
import { Fleet } from "./fleet";
import { Live } from "./live";
import { named } from "./format";
import { alter, route } from "./router";
import { text } from "./strings";

export type Theme = "system" | "light" | "dark";

export const fleet = new Fleet();
export const interpolated = route.value.query.get("interp") !== "off" && !matchMedia("(prefers-reduced-motion: reduce)").matches;

export const connection = signal<{ state: "connecting" | "live" | "waiting"; retryAt: number; why: string }>({ state: "connecting", retryAt: 0, why: "" });
export const hello = signal<api.Hello | null>(null);
export const pipeline = signal<api.Pipeline | null>(null);
export const status = signal<api.Status | null>(null);
export const needsLogin = signal(false);
/** The node was replaced by another version while this page was open. */
export const outdated = signal(false);
/** Counts frames; views that show numbers of the fleet read it. */
export const beat = signal(0);
/** The node's clock, ms, as of the last tick. */
export const now = signal(Date.now());
export const detail = signal<api.DeviceDetail | null>(null);
/** A device that the node said it does not know. */
export const unknown = signal("");
export const selected = computed(() => route.value.query.get("device") ?? "");
/** Rates of the last minutes, by stage: bounded rings for the strip's little curves. */
export const curves = new Map<string, number[]>();
const CURVE = 60;

const stored = (): Theme => {
  try {
    const t = localStorage.getItem("millrace.theme");
    return t === "light" || t === "dark" ? t : "system";
  } catch {
    return "system";
  }
};
export const theme = signal<Theme>(stored());
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const system = signal(systemDark.matches);
systemDark.addEventListener("change", () => (system.value = systemDark.matches));
export const dark = computed(() => (theme.value === "system" ? system.value : theme.value === "dark"));
effect(() => {
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
});
export function nextTheme(): void {
  theme.value = theme.value === "system" ? (dark.value ? "light" : "dark") : theme.value === "light" ? "dark" : "light";
  try {
    localStorage.setItem("millrace.theme", theme.value);
  } catch {
    // No storage: the choice lasts as long as the page.
  }
}

const frames = new Set<() => void>();
/** Calls f after every frame of the live channel. */
export function onFrame(f: () => void): () => void {
  frames.add(f);
  return () => frames.delete(f);
}

/** The last frame's header. */
export let frameTick = 0;

export const live: Live = new Live(fleet, {
  state: (state, retryAt, why) => (connection.value = { state, retryAt, why }),
  hello(h) {
    if (hello.value && hello.value.version !== h.version) outdated.value = true;
    hello.value = h;
    fleet.glide = interpolated ? h.tick : 0;
    void refreshStatus();
  },
  pipeline(p) {
    for (const s of p.stages) {
      const ring = curves.get(s.name) ?? [];
      ring.push(s.rate);
      if (ring.length > CURVE) ring.shift();
      curves.set(s.name, ring);
    }
    now.value = p.now;
    pipeline.value = p;
  },
  device(d) {
    if (d.id === selected.value) detail.value = d;
  },
  frame(h) {
    frameTick = h.tick;
    now.value = h.tick;
    for (const f of frames) f();
    beat.value++;
  },
  login: () => (needsLogin.value = true),
});

api.whenLoginIsMissing(() => (needsLogin.value = true));

export async function refreshStatus(): Promise<void> {
  try {
    status.value = await api.status();
  } catch {
    // The connection's own state tells.
  }
}

/** Selects a device, or none with "". */
export function select(id: string): void {
  if (id !== selected.value) alter({ device: id || null }, true);
}

// The watched device is the selected one.
effect(() => {
  const id = selected.value;
  live.follow(id);
  unknown.value = "";
  if (detail.peek()?.id !== id) detail.value = null;
  if (!id) return;
  api.device(id).then(
    (d) => {
      if (d.id === selected.value) detail.value = d;
    },
    (e) => {
      if (id !== selected.value) return;
      detail.value = null;
      if (e instanceof api.Refused && e.status === 404) unknown.value = id;
    },
  );
});

export const sourceOf = (id: number): api.Source | undefined => hello.value?.sources.find((s) => s.id === id);
export const sourceName = (id: number): string => {
  const s = sourceOf(id);
  return s ? text.source(named(s.label ?? s.name, 40), text.kind[s.kind] ?? "") : text.none;
};
