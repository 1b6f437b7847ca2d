// The search on the map: a combobox over the names of the devices.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { devices, type Device } from "./api";
import * as f from "./format";
import { palette, sourceColour } from "./palette";
import { dark, now } from "./state";
import { text } from "./strings";

const query = signal("");
const hits = signal<{ of: string; devices: Device[]; total: number } | null>(null);
const at = signal(-1);
const LIMIT = 8;
const COMBOBOX = { role: "combobox" } as object; // the types want a list that is none of ours

export function Search({ onPick }: { onPick(d: Device): void }) {
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const stop = new AbortController();
    const q = query.value.trim();
    if (!q) {
      hits.value = null;
      return;
    }
    const soon = setTimeout(() => {
      devices({ q, limit: LIMIT }, stop.signal).then(
        (page) => {
          hits.value = { of: q, devices: page.devices, total: page.total };
          at.value = page.devices.length > 0 ? 0 : -1;
        },
        () => {},
      );
    }, 150);
    return () => {
      clearTimeout(soon);
      stop.abort();
    };
  }, [query.value]);

  const pick = (d: Device | undefined) => {
    if (!d) return;
    onPick(d);
    close();
  };
  const close = () => {
    query.value = "";
    hits.value = null;
    input.current?.blur();
  };
  const key = (e: KeyboardEvent) => {
    const n = hits.value?.devices.length ?? 0;
    if (e.key === "ArrowDown" && n) at.value = (at.value + 1) % n;
    else if (e.key === "ArrowUp" && n) at.value = (at.value + n - 1) % n;
    else if (e.key === "Enter") pick(hits.value?.devices[at.value]);
    else if (e.key === "Escape") close();
    else return;
    e.preventDefault();
    e.stopPropagation();
  };
  const found = hits.value;
  const p = palette(dark.value);
  return (
    <div class="search" role="search">
      <input
        ref={input} type="search" {...COMBOBOX} aria-expanded={found !== null} aria-controls="hits" aria-autocomplete="list" autocomplete="off" spellcheck={false}
        aria-label={text.map.search} placeholder={`${text.map.search}  (${text.map.searchHint})`} value={query.value} maxLength={200}
        aria-activedescendant={found && at.value >= 0 ? "hit-" + at.value : undefined}
        onInput={(e) => (query.value = e.currentTarget.value)} onKeyDown={key}
      />
      {found && (
        <ul id="hits" role="listbox" aria-label={text.map.found(found.total)}>
          {found.devices.map((d, i) => (
            <li key={d.id} id={"hit-" + i} role="option" aria-selected={i === at.value} onMouseDown={(e) => { e.preventDefault(); pick(d); }} onMouseMove={() => (at.value = i)}>
              <i style={{ background: sourceColour(p, d.source) }} aria-hidden="true" />
              <span class="id">{f.named(d.id, 40)}</span>
              <span class="dim">{f.ago(d.last_seen, now.value)}</span>
            </li>
          ))}
          <li class="dim note" role="presentation">{found.total === 0 ? text.map.noneFound : text.map.found(found.total)}</li>
        </ul>
      )}
    </div>
  );
}
