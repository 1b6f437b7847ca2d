// The map's view: the map itself, loaded when it is first shown, and what lies on it.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as f from "./format";
import { areas, attribution, hovered, inView } from "./mapstate";
import type { MapView } from "./mapview";
import { palette, sourceColour } from "./palette";
import { Panel } from "./panel";
import { Search } from "./search";
import { dark, hello, select, selected, sourceName } from "./state";
import { text } from "./strings";

const t = text.map;
const view = signal<MapView | null>(null);
const failed = signal(false);
let loading = false;

export const theMap = (): MapView | null => view.value;

async function load(holder: HTMLElement): Promise<void> {
  if (loading) return;
  loading = true;
  try {
    const { MapView } = await import("./mapview");
    view.value = new MapView(holder);
  } catch (e) {
    console.warn("the map", e);
    failed.value = true;
  }
}

export function MapPage({ visible }: { visible: boolean }) {
  const holder = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (visible && holder.current) void load(holder.current);
    view.value?.shown(visible);
  }, [visible]);
  useEffect(() => {
    const esc = (e: KeyboardEvent) => {
      if (e.key === "Escape" && selected.value && !(e.target instanceof HTMLInputElement)) select("");
    };
    addEventListener("keydown", esc);
    return () => removeEventListener("keydown", esc);
  }, []);
  return (
    <section class="map" hidden={!visible} aria-label={t.label}>
      <div class="ground" ref={holder} />
      {failed.value && <p class="failed" role="alert">{t.failed}</p>}
      {!view.value && !failed.value && <p class="loading">{text.loading}</p>}
      {visible && <div class="over">
        <Search onPick={(d) => {
          select(d.id);
          if (d.lat !== null && d.lon !== null) view.value?.near(d.lat, d.lon);
        }} />
        <Areas />
      </div>}
      <div class="zoom" role="group">
        <button class="icon" aria-label={t.zoomIn} title={t.zoomIn} onClick={() => view.value?.zoom(1)}>+</button>
        <button class="icon" aria-label={t.zoomOut} title={t.zoomOut} onClick={() => view.value?.zoom(-1)}>−</button>
        <button class="icon" aria-label={t.everything} title={t.everything} onClick={() => view.value?.everything()}>
          <svg viewBox="0 0 24 24" width="16" height="16" aria-hidden="true"><path d="M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5" fill="none" stroke="currentColor" stroke-width="2.2" /></svg>
        </button>
      </div>
      <Tip />
      {visible && <Panel />}
      <Credits />
    </section>
  );
}

function Areas() {
  const p = palette(dark.value);
  void hello.value;
  if (areas.value.length === 0) return null;
  return (
    <div class="areas" role="group" aria-label={t.areas}>
      {areas.value.slice(0, 8).map((a) => (
        <button key={a.source} onClick={() => view.value?.area(a)}>
          <i style={{ background: sourceColour(p, a.source) }} aria-hidden="true" />
          {sourceName(a.source)} <span class="dim">{f.short(a.count)}</span>
        </button>
      ))}
    </div>
  );
}

function Tip() {
  const h = hovered.value;
  if (!h || !h.name) return null;
  return <div class="tip" style={{ left: h.x + "px", top: h.y + "px" }} aria-hidden="true">{h.name}</div>;
}

function Credits() {
  const said = new Set<string>();
  for (const s of hello.value?.sources ?? []) if (s.attribution) said.add(f.named(s.attribution, 80));
  if (attribution.value) said.add(f.named(attribution.value, 80));
  said.add(t.world);
  return (
    <p class="credits">
      <span class="count">{t.vehicles(f.count(inView.value))}</span>
      {[...said].map((s) => <span key={s}>{s}</span>)}
    </p>
  );
}
