// The list of all devices. Only the rows in view exist; their order stays as it is while somebody reads it.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { devices, type Device } from "./api";
import * as f from "./format";
import { palette, sourceColour } from "./palette";
import { alter, go, link, route } from "./router";
import { connection, dark, now, sourceName } from "./state";
import { text } from "./strings";

const t = text.list;
const ROW = 36;
const FIRST = 200; // rows asked for at first
const MORE = 1000; // rows asked for at once when somebody scrolls on; the most the API gives
const REFRESH = 2000;
const MOST_CSV = 200_000;

const rows = signal<Device[]>([]);
const total = signal<number | null>(null);
const failed = signal("");
const held = signal(false);
const scroll = signal({ top: 0, height: 600 });
const active = signal(-1);
const exporting = signal(false);

// One loader at a time; what an older question answers is thrown away.
let turn = 0;
let next = "";
let loading = false;

const asked = () => ({ q: route.value.query.get("q") ?? "", sort: route.value.query.get("sort") ?? "id" });

async function reload(): Promise<void> {
  const mine = ++turn;
  loading = true;
  try {
    const page = await devices({ ...asked(), limit: Math.min(MORE, Math.max(FIRST, rows.value.length)) });
    if (mine !== turn) return;
    rows.value = page.devices;
    total.value = page.total;
    next = page.next;
    failed.value = "";
  } catch (e) {
    if (mine === turn) failed.value = f.named(e instanceof Error ? e.message : String(e), 200);
  } finally {
    if (mine === turn) loading = false;
  }
}

/** Loads on until the rows in view are there. */
async function reach(): Promise<void> {
  if (loading) return;
  loading = true;
  const mine = turn;
  try {
    while (mine === turn && next && (scroll.value.top + 2 * scroll.value.height) / ROW > rows.value.length) {
      const page = await devices({ ...asked(), limit: MORE, cursor: next });
      if (mine !== turn) return;
      const known = new Set(rows.value.map((d) => d.id)); // somebody may have moved up while we scrolled
      rows.value = rows.value.concat(page.devices.filter((d) => !known.has(d.id)));
      total.value = page.total;
      next = page.next;
    }
  } catch {
    // The next refresh tries again.
  } finally {
    if (mine === turn) loading = false;
  }
}

const inView = (): [number, number] => {
  const from = Math.max(0, Math.floor(scroll.value.top / ROW) - 4);
  return [from, Math.min(rows.value.length, from + Math.ceil(scroll.value.height / ROW) + 8)];
};

/** New values: in a new order if nobody is reading, else in the rows as they stand. */
async function refresh(): Promise<void> {
  if (document.hidden || loading) return;
  if (!held.value && rows.value.length <= MORE && scroll.value.top < ROW) return reload();
  const [from, to] = inView();
  const seen = rows.value.slice(from, to);
  if (seen.length === 0) return;
  const mine = turn;
  try {
    const page = await devices({ slots: seen.map((d) => d.slot), limit: MORE });
    if (mine !== turn) return;
    const fresh = new Map(page.devices.map((d) => [d.id, d]));
    rows.value = rows.value.map((d) => fresh.get(d.id) ?? d);
  } catch {
    // The connection's state tells.
  }
}

async function exportCSV(): Promise<void> {
  exporting.value = true;
  try {
    const out = ["id,source,last_seen,lat,lon,speed_m_s,heading,messages,latency_ms,clock_skew_ms,stale"];
    let cursor = "";
    do {
      const page = await devices({ ...asked(), limit: MORE, cursor });
      for (const d of page.devices) {
        out.push([d.id, sourceName(d.source), new Date(d.last_seen).toISOString(), d.lat, d.lon, d.speed, d.heading, d.messages, d.latency_ms, d.clock_skew_ms, d.stale].map(f.csvCell).join(","));
      }
      cursor = page.next;
    } while (cursor && out.length < MOST_CSV);
    const a = document.createElement("a");
    a.href = URL.createObjectURL(new Blob([out.join("\r\n") + "\r\n"], { type: "text/csv" }));
    a.download = "devices.csv";
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
  } catch (e) {
    failed.value = f.named(e instanceof Error ? e.message : String(e), 200);
  } finally {
    exporting.value = false;
  }
}

const COLUMNS: { name: string; sort?: string; cls: string }[] = [
  { name: t.id, sort: "id", cls: "id" },
  { name: t.source, cls: "source" },
  { name: t.lastSeen, sort: "last_seen", cls: "num seen" },
  { name: t.speed, cls: "num speed" },
  { name: t.messages, cls: "num messages" },
  { name: t.latency, cls: "num latency" },
  { name: t.skew, cls: "num skew" },
];

function Head() {
  const sort = asked().sort;
  const order = (c: { sort?: string }) => (!c.sort ? undefined : sort === c.sort ? (c.sort === "id" ? "ascending" : "descending") : undefined);
  return (
    <div class="row head" role="row">
      {COLUMNS.map((c) => (
        <div key={c.name} class={c.cls} role="columnheader" aria-sort={order(c)}>
          {c.sort
            ? <button onClick={() => alter({ sort: c.sort === "id" ? null : c.sort! })}>{c.name}{order(c) && <span aria-hidden="true">{c.sort === "id" ? " ↑" : " ↓"}</span>}</button>
            : c.name}
        </div>
      ))}
    </div>
  );
}

function Row({ d, i }: { d: Device; i: number }) {
  return (
    <div
      id={"device-" + i} class={"row" + (i === active.value ? " active" : "") + (d.stale ? " stale" : "")} role="row" aria-rowindex={i + 2} aria-selected={i === active.value}
      style={{ top: i * ROW + "px" }} onClick={() => go(link("map", { device: d.id }))}
    >
      <div class="id" role="gridcell"><i style={{ background: sourceColour(palette(dark.value), d.source) }} aria-hidden="true" />{f.named(d.id, 64)}</div>
      <div class="source" role="gridcell">{sourceName(d.source)}</div>
      <div class="num seen" role="gridcell">{f.ago(d.last_seen, now.value)}</div>
      <div class="num speed" role="gridcell">{f.kmh(d.speed)}</div>
      <div class="num messages" role="gridcell">{f.count(d.messages)}</div>
      <div class="num latency" role="gridcell">{f.duration(d.latency_ms)}</div>
      <div class="num skew" role="gridcell">{f.duration(d.clock_skew_ms)}</div>
    </div>
  );
}

export function DeviceList() {
  const body = useRef<HTMLDivElement>(null);
  const { q, sort } = asked();
  useEffect(() => {
    rows.value = [];
    total.value = null;
    active.value = -1;
    if (body.current) body.current.scrollTop = 0;
    void reload();
  }, [q, sort]);
  const isLive = connection.value.state === "live";
  useEffect(() => {
    if (isLive) void reload(); // the node is back; who reads on keeps his row
  }, [isLive]);
  useEffect(() => {
    const every = setInterval(() => void refresh(), REFRESH);
    const measure = () => {
      if (body.current) scroll.value = { top: body.current.scrollTop, height: body.current.clientHeight };
    };
    measure();
    addEventListener("resize", measure);
    return () => {
      clearInterval(every);
      removeEventListener("resize", measure);
      held.value = false;
    };
  }, []);

  const key = (e: KeyboardEvent) => {
    const page = Math.floor(scroll.value.height / ROW) - 1;
    const step: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    if (e.key in step) {
      active.value = Math.max(0, Math.min(rows.value.length - 1, active.value + step[e.key]!));
      const b = body.current!;
      const top = active.value * ROW;
      if (top < b.scrollTop) b.scrollTop = top;
      else if (top + 2 * ROW > b.scrollTop + b.clientHeight) b.scrollTop = top + 2 * ROW - b.clientHeight; // the head is a row too
      e.preventDefault();
    } else if (e.key === "Enter" && rows.value[active.value]) go(link("map", { device: rows.value[active.value]!.id }));
  };

  const [from, to] = inView();
  return (
    <section class="page devices">
      <header>
        <h1>{t.title}</h1>
        <input
          type="search" aria-label={t.search} placeholder={`${t.search}  (${text.map.searchHint})`} value={q} maxLength={200} spellcheck={false} autocomplete="off"
          onInput={(e) => alter({ q: e.currentTarget.value })}
          onKeyDown={(e) => {
            if (e.key === "Escape") alter({ q: null });
            else if (e.key === "ArrowDown") body.current?.focus();
          }}
        />
        <span class="dim" role="status">{total.value === null ? text.loading : t.shown(f.count(total.value))}{held.value && sort !== "id" ? " · " + t.frozen : ""}</span>
        <button onClick={() => void exportCSV()} disabled={exporting.value}>{exporting.value ? t.exporting : t.csv}</button>
      </header>
      {failed.value && <p class="bad" role="alert">{t.failed}: {failed.value}</p>}
      <div class="grid" role="grid" aria-label={t.title} aria-rowcount={(total.value ?? 0) + 1}>
        <div
          class="body" ref={body} tabIndex={0} role="rowgroup" aria-activedescendant={active.value >= 0 ? "device-" + active.value : undefined} onKeyDown={key}
          onMouseEnter={() => (held.value = true)} onMouseLeave={() => (held.value = false)} onFocus={() => (held.value = true)} onBlur={() => (held.value = false)}
          onScroll={(e) => {
            scroll.value = { top: e.currentTarget.scrollTop, height: e.currentTarget.clientHeight };
            void reach();
          }}
        >
          <Head />
          <div class="all" style={{ height: Math.max(total.value ?? 0, rows.value.length) * ROW + "px" }}>
            {rows.value.slice(from, to).map((d, i) => <Row key={d.id} d={d} i={from + i} />)}
          </div>
          {total.value === 0 && <p class="dim empty">{q ? t.none : t.empty}</p>}
        </div>
      </div>
    </section>
  );
}
